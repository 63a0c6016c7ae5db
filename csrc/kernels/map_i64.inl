// The operations of map.h on whole numbers, which wrap at 64 bits. Loops that the compiler turns into vectors where the
// instruction set has them: there is one result.
#pragma once

#include "kernels/map.inl"

namespace ek {
namespace {

EK_INLINE uint64_t bits_of(int64_t x) { return static_cast<uint64_t>(x); }
EK_INLINE int64_t wrapped(uint64_t x) { return static_cast<int64_t>(x); }
EK_INLINE int64_t negative(int64_t x) { return wrapped(0 - bits_of(x)); }

EK_INLINE int64_t quotient(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? negative(a) : a / b; }
EK_INLINE int64_t rest(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
EK_INLINE int64_t modulus(int64_t a, int64_t b) {
  const int64_t r = rest(a, b);
  return r != 0 && (r < 0) != (b < 0) ? r + b : r;
}
/// Cut off toward zero where the exponent is negative; 0 of 0 then.
EK_INLINE int64_t power(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == -1) return (exponent & 1) != 0 ? -1 : 1;
    return base == 1 ? 1 : 0;
  }
  uint64_t y = 1, square = bits_of(base);
  for (; exponent > 0; exponent >>= 1, square *= square) y *= (exponent & 1) != 0 ? square : 1;
  return wrapped(y);
}

void map_i64(MapOp op, const MapSource<int64_t>* x, size_t n, int64_t* y) {
  using I = int64_t;
  switch (op) {
    case MapOp::kNeg:
      return each1(x, n, y, [](I a) EK_LAMBDA { return negative(a); });
    case MapOp::kAbs:
      return each1(x, n, y, [](I a) EK_LAMBDA { return a < 0 ? negative(a) : a; });
    case MapOp::kSign:
      return each1(x, n, y, [](I a) EK_LAMBDA { return static_cast<I>(a > 0) - static_cast<I>(a < 0); });
    case MapOp::kNot:
      return each1(x, n, y, [](I a) EK_LAMBDA { return static_cast<I>(a == 0); });
    case MapOp::kAdd:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return wrapped(bits_of(a) + bits_of(b)); });
    case MapOp::kSub:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return wrapped(bits_of(a) - bits_of(b)); });
    case MapOp::kMul:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return wrapped(bits_of(a) * bits_of(b)); });
    case MapOp::kDiv:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return quotient(a, b); });
    case MapOp::kMin:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return a < b ? a : b; });
    case MapOp::kMax:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return a > b ? a : b; });
    case MapOp::kPow:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return power(a, b); });
    case MapOp::kMod:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return modulus(a, b); });
    case MapOp::kFmod:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return rest(a, b); });
    case MapOp::kLess:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>(a < b); });
    case MapOp::kLessEqual:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>(a <= b); });
    case MapOp::kGreater:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>(a > b); });
    case MapOp::kGreaterEqual:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>(a >= b); });
    case MapOp::kEqual:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>(a == b); });
    case MapOp::kAnd:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>((a != 0) & (b != 0)); });
    case MapOp::kOr:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>((a != 0) | (b != 0)); });
    case MapOp::kXor:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return static_cast<I>((a != 0) != (b != 0)); });
    case MapOp::kPrelu:
      return each2(x, n, y, [](I a, I b) EK_LAMBDA { return a < 0 ? wrapped(bits_of(a) * bits_of(b)) : a; });
    case MapOp::kWhere:
      return each3(x, n, y, [](I a, I b, I c) EK_LAMBDA { return a != 0 ? b : c; });
    case MapOp::kClip:
      return each3(x, n, y, [](I a, I b, I c) EK_LAMBDA {
        const I held = a < b ? b : a;
        return held < c ? held : c;
      });
    case MapOp::kMulAdd:
      return each3(x, n, y, [](I a, I b, I c) EK_LAMBDA { return wrapped(bits_of(a) * bits_of(b) + bits_of(c)); });
    default:  // the others are refused where a step is checked
      return each1(x, n, y, [](I a) EK_LAMBDA { return a; });
  }
}

void map_load_i64(const uint8_t* x, MapFormat format, size_t n, int64_t* y) {
  switch (format.type) {
    case MapType::kF32:
    case MapType::kF16:
    case MapType::kBf16:
      return;  // refused where a step is checked
    case MapType::kI64:
      return copy_bytes(y, x, n * sizeof(int64_t));
    case MapType::kI32:
      return convert_items<int32_t>(x, n, y);
    case MapType::kBool:
      for (size_t i = 0; i < n; ++i) y[i] = x[i] != 0 ? 1 : 0;
      return;
    case MapType::kCodes:
      return format.q.sign == Sign::kU8 ? convert_items<uint8_t>(x, n, y) : convert_items<int8_t>(x, n, y);
  }
}

template <typename To>
EK_INLINE void store_low(const int64_t* x, size_t n, uint8_t* y) {
  for (size_t i = 0; i < n; ++i) {
    const To item = static_cast<To>(x[i]);
    __builtin_memcpy(y + i * sizeof item, &item, sizeof item);
  }
}

void map_store_i64(const int64_t* x, MapFormat format, size_t n, uint8_t* y) {
  switch (format.type) {
    case MapType::kF32:
      return store_low<float>(x, n, y);
    case MapType::kF16:
    case MapType::kBf16:
      return;  // refused where a step is checked
    case MapType::kI64:
      return store_low<int64_t>(x, n, y);
    case MapType::kI32:
      return store_low<int32_t>(x, n, y);
    case MapType::kBool:
      for (size_t i = 0; i < n; ++i) y[i] = x[i] != 0 ? 1 : 0;
      return;
    case MapType::kCodes:
      return store_low<uint8_t>(x, n, y);
  }
}

}  // namespace
}  // namespace ek
