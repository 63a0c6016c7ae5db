// One operation over a block: a loop an operation, chosen once a call.
//
// Operands   arrays of n items, or lines of kStrip equal ones, which a walk of 0 reads again and again.
// Bits       each lane by itself, in the order written in the bodies; nothing depends on where a block begins.
// Edges      nothing behind the n-th item is read or written: operands may end at the end of a tensor.
#pragma once

#include "kernels/activations.inl"
#include "kernels/functions.inl"
#include "kernels/map.h"
#include "kernels/rare_functions.inl"

namespace ek {
namespace {

using F32Source = MapSource<float>;

/// The last vector overlaps its neighbor. It is computed first, for y may be an operand.
template <typename Body>
EK_INLINE void map_lanes(size_t n, float* y, Body&& body) {
  if (n < kStrip) return store_f32_n(y, body(0, n), n);
  const size_t last = n - kStrip;
  const F32 tail = body(last, size_t{kStrip});
  for (size_t i = 0; i < last; i += kStrip) store_f32(y + i, body(i, size_t{kStrip}));
  store_f32(y + last, tail);
}
template <typename Body>
EK_INLINE void map1(const F32Source* x, size_t n, float* y, Body&& body) {
  const F32Source a = x[0];
  map_lanes(n, y, [&](size_t i, size_t left) EK_LAMBDA { return body(load_f32_n(a.p + (i & a.walk), left)); });
}
template <typename Body>
EK_INLINE void map2(const F32Source* x, size_t n, float* y, Body&& body) {
  const F32Source a = x[0], b = x[1];
  map_lanes(n, y, [&](size_t i, size_t left) EK_LAMBDA {
    return body(load_f32_n(a.p + (i & a.walk), left), load_f32_n(b.p + (i & b.walk), left));
  });
}
template <typename Body>
EK_INLINE void map3(const F32Source* x, size_t n, float* y, Body&& body) {
  const F32Source a = x[0], b = x[1], c = x[2];
  map_lanes(n, y, [&](size_t i, size_t left) EK_LAMBDA {
    return body(load_f32_n(a.p + (i & a.walk), left), load_f32_n(b.p + (i & b.walk), left),
                load_f32_n(c.p + (i & c.walk), left));
  });
}
/// One body for whole vectors and the tail, where it is long.
template <typename Body>
EK_INLINE void map_long(const F32Source* x, size_t n, float* y, Body&& body) {
  const F32Source a = x[0];
  for (size_t i = 0; i < n; i += kStrip) {
    store_f32_n(y + i, body(load_f32_n(a.p + (i & a.walk), n - i)), n - i);
  }
}
template <typename T, typename Body>
EK_INLINE void each1(const MapSource<T>* x, size_t n, T* y, Body&& body) {
  const MapSource<T> a = x[0];
  for (size_t i = 0; i < n; ++i) y[i] = body(a.p[i & a.walk]);
}
template <typename T, typename Body>
EK_INLINE void each2(const MapSource<T>* x, size_t n, T* y, Body&& body) {
  const MapSource<T> a = x[0], b = x[1];
  for (size_t i = 0; i < n; ++i) y[i] = body(a.p[i & a.walk], b.p[i & b.walk]);
}
template <typename T, typename Body>
EK_INLINE void each3(const MapSource<T>* x, size_t n, T* y, Body&& body) {
  const MapSource<T> a = x[0], b = x[1], c = x[2];
  for (size_t i = 0; i < n; ++i) y[i] = body(a.p[i & a.walk], b.p[i & b.walk], c.p[i & c.walk]);
}

EK_INLINE F32 truth_below(F32 a, F32 b) { return select_below(a, b, set1_f32(1.0f), set1_f32(0.0f)); }
EK_INLINE F32 truth_equal(F32 a, F32 b) { return select_equal(a, b, set1_f32(1.0f), set1_f32(0.0f)); }
EK_INLINE F32 truth_not_above(F32 a, F32 b) { return select_below(a, b, set1_f32(1.0f), truth_equal(a, b)); }
EK_INLINE F32 not_zero(F32 a) { return select_equal(a, set1_f32(0.0f), set1_f32(0.0f), set1_f32(1.0f)); }
/// y, or a where it is a NaN.
EK_INLINE F32 unless_nan(F32 a, F32 y) { return select_equal(a, a, y, a); }

EK_INLINE F32 floor_f32(F32 x) {
  const F32 nearest = round_f32(x);
  return select_below(x, nearest, sub_f32(nearest, set1_f32(1.0f)), nearest);
}
/// -0 from above -1 on.
EK_INLINE F32 ceil_f32(F32 x) { return negative_f32(floor_f32(negative_f32(x))); }
EK_INLINE F32 sign_f32(F32 x) {
  const F32 zero = set1_f32(0.0f);
  return select_below(x, zero, set1_f32(-1.0f), select_below(zero, x, set1_f32(1.0f), x));
}

void map(MapOp op, const F32Source* x, size_t n, float* y) {
  const F32 zero = set1_f32(0.0f), one = set1_f32(1.0f);
  switch (op) {
    case MapOp::kCopy:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return a; });
    case MapOp::kNeg:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return negative_f32(a); });
    case MapOp::kAbs:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return size_f32(a); });
    case MapOp::kSign:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return sign_f32(a); });
    case MapOp::kSqrt:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return sqrt_f32(a); });
    case MapOp::kReciprocal:
      return map1(x, n, y, [&](F32 a) EK_LAMBDA { return div_f32(one, a); });
    case MapOp::kExp:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return exp_f32(a); });
    case MapOp::kLog:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return log_f32(a); });
    case MapOp::kSin:
      return sines(x[0].p, x[0].walk, n, 0, y);
    case MapOp::kCos:
      return sines(x[0].p, x[0].walk, n, 1, y);
    case MapOp::kTan:
      return each1(x, n, y, [](float a) EK_LAMBDA { return tan_lane(a); });
    case MapOp::kAsin:
      return each1(x, n, y, [](float a) EK_LAMBDA { return asin_lane(a); });
    case MapOp::kAcos:
      return each1(x, n, y, [](float a) EK_LAMBDA { return acos_lane(a); });
    case MapOp::kAtan:
      return each1(x, n, y, [](float a) EK_LAMBDA { return atan_lane(a); });
    case MapOp::kSinh:
      return each1(x, n, y, [](float a) EK_LAMBDA { return sinh_lane(a); });
    case MapOp::kCosh:
      return each1(x, n, y, [](float a) EK_LAMBDA { return cosh_lane(a); });
    case MapOp::kTanh:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return tanh_f32(a); });
    case MapOp::kErf:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return erf_f32(a); });
    case MapOp::kSigmoid:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return sigmoid_f32(a); });
    case MapOp::kSilu:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return silu(a); });
    case MapOp::kGelu:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return gelu(a); });
    case MapOp::kGeluTanh:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return gelu_tanh(a); });
    case MapOp::kSoftplus:
      return map_long(x, n, y, [](F32 a) EK_LAMBDA { return softplus_f32(a); });
    case MapOp::kFloor:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return floor_f32(a); });
    case MapOp::kCeil:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return ceil_f32(a); });
    case MapOp::kRound:
      return map1(x, n, y, [](F32 a) EK_LAMBDA { return round_f32(a); });
    case MapOp::kNot:
      return map1(x, n, y, [&](F32 a) EK_LAMBDA { return truth_equal(a, zero); });
    case MapOp::kIsNan:
      return map1(x, n, y, [&](F32 a) EK_LAMBDA { return select_equal(a, a, zero, one); });
    case MapOp::kIsInf:
      return map1(x, n, y, [&](F32 a) EK_LAMBDA { return truth_equal(size_f32(a), set1_f32(kInfinityF32)); });
    case MapOp::kAdd:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return add_f32(a, b); });
    case MapOp::kSub:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return sub_f32(a, b); });
    case MapOp::kMul:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return mul_f32(a, b); });
    case MapOp::kDiv:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return div_f32(a, b); });
    case MapOp::kMin:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return unless_nan(a, min_f32(a, b)); });
    case MapOp::kMax:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return unless_nan(a, max_f32(a, b)); });
    case MapOp::kPow:
      return each2(x, n, y, [](float a, float b) EK_LAMBDA { return pow_lane(a, b); });
    case MapOp::kMod:
      return each2(x, n, y, [](float a, float b) EK_LAMBDA { return mod_lane(a, b); });
    case MapOp::kFmod:
      return each2(x, n, y, [](float a, float b) EK_LAMBDA { return fmod_lane(a, b); });
    case MapOp::kLess:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return truth_below(a, b); });
    case MapOp::kLessEqual:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return truth_not_above(a, b); });
    case MapOp::kGreater:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return truth_below(b, a); });
    case MapOp::kGreaterEqual:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return truth_not_above(b, a); });
    case MapOp::kEqual:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return truth_equal(a, b); });
    case MapOp::kAnd:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return mul_f32(not_zero(a), not_zero(b)); });
    case MapOp::kOr:
      return map2(x, n, y, [](F32 a, F32 b) EK_LAMBDA { return max_f32(not_zero(a), not_zero(b)); });
    case MapOp::kXor:
      return map2(x, n, y, [&](F32 a, F32 b) EK_LAMBDA { return select_equal(not_zero(a), not_zero(b), zero, one); });
    case MapOp::kPrelu:
      return map2(x, n, y, [&](F32 a, F32 b) EK_LAMBDA { return select_below(a, zero, mul_f32(a, b), a); });
    case MapOp::kWhere:
      return map3(x, n, y, [&](F32 a, F32 b, F32 c) EK_LAMBDA { return select_equal(a, zero, c, b); });
    case MapOp::kClip:  // a bound that is a NaN does not bind
      return map3(x, n, y, [](F32 a, F32 b, F32 c) EK_LAMBDA { return unless_nan(a, min_f32(c, max_f32(b, a))); });
    case MapOp::kMulAdd:
      return map3(x, n, y, [](F32 a, F32 b, F32 c) EK_LAMBDA { return fma_f32(a, b, c); });
    case MapOp::kRoundF16:
      return map1(x, n, y, [](F32 a) EK_LAMBDA {
        uint16_t halves[kStrip];
        store_f16_n(halves, a, kStrip);
        return load_f16(halves);
      });
    case MapOp::kRoundBf16:
      return map1(x, n, y, [](F32 a) EK_LAMBDA {
        uint16_t halves[kStrip];
        store_bf16_n(halves, a, kStrip);
        return load_bf16(halves);
      });
  }
}

/// n halves as float32: `load` widens kStrip of them.
template <typename Load>
EK_INLINE void widen_items(const uint8_t* x, size_t n, float* y, Load&& load) {
  const auto* const halves = reinterpret_cast<const uint16_t*>(x);
  size_t i = 0;
  for (; i + kStrip <= n; i += kStrip) store_f32(y + i, load(halves + i));
  if (i == n) return;
  uint16_t lanes[kStrip] = {};
  copy_bytes(lanes, halves + i, (n - i) * sizeof *lanes);
  store_f32_n(y + i, load(lanes), n - i);
}
/// `store` rounds the first few lanes to halves.
template <typename Store>
EK_INLINE void narrow_items(const float* x, size_t n, uint8_t* y, Store&& store) {
  for (size_t i = 0; i < n; i += kStrip) {
    store(reinterpret_cast<uint16_t*>(y) + i, load_f32_n(x + i, n - i), n - i < kStrip ? n - i : kStrip);
  }
}

template <typename From, typename To>
EK_INLINE void convert_items(const uint8_t* x, size_t n, To* y) {
  for (size_t i = 0; i < n; ++i) {
    From item;
    __builtin_memcpy(&item, x + i * sizeof item, sizeof item);
    y[i] = static_cast<To>(item);
  }
}

void map_load(const uint8_t* x, MapFormat format, size_t n, float* y) {
  switch (format.type) {
    case MapType::kF32:
      return copy_bytes(y, x, n * sizeof(float));
    case MapType::kF16:
      return widen_items(x, n, y, [](const uint16_t* p) EK_LAMBDA { return load_f16(p); });
    case MapType::kBf16:
      return widen_items(x, n, y, [](const uint16_t* p) EK_LAMBDA { return load_bf16(p); });
    case MapType::kI64:
      return convert_items<int64_t>(x, n, y);
    case MapType::kI32:
      return convert_items<int32_t>(x, n, y);
    case MapType::kBool:
      for (size_t i = 0; i < n; ++i) y[i] = x[i] != 0 ? 1.0f : 0.0f;
      return;
    case MapType::kCodes:
      for (size_t i = 0; i < n; i += kStrip)
        store_f32_n(y + i, dequantize_lanes(load_bytes_n(x + i, format.q.sign, n - i), format.q), n - i);
      return;
  }
}

/// Cut off toward zero, held in [lowest, -lowest - 1]; 0 for a NaN.
template <typename To>
EK_INLINE void store_whole(const float* x, size_t n, uint8_t* y) {
  constexpr float kEnd = sizeof(To) == 8 ? 0x1p63f : 0x1p31f;
  constexpr auto kLast = static_cast<To>((uint64_t{1} << (8 * sizeof(To) - 1)) - 1);
  for (size_t i = 0; i < n; ++i) {
    const float v = x[i];
    const To item = v != v ? 0 : v >= kEnd ? kLast : v < -kEnd ? static_cast<To>(-kLast - 1) : static_cast<To>(v);
    __builtin_memcpy(y + i * sizeof item, &item, sizeof item);
  }
}

void map_store(const float* x, MapFormat format, size_t n, uint8_t* y) {
  switch (format.type) {
    case MapType::kF32:
      return copy_bytes(y, x, n * sizeof(float));
    case MapType::kF16:
      return narrow_items(x, n, y, [](uint16_t* p, F32 v, size_t k) EK_LAMBDA { store_f16_n(p, v, k); });
    case MapType::kBf16:
      return narrow_items(x, n, y, [](uint16_t* p, F32 v, size_t k) EK_LAMBDA { store_bf16_n(p, v, k); });
    case MapType::kI64:
      return store_whole<int64_t>(x, n, y);
    case MapType::kI32:
      return store_whole<int32_t>(x, n, y);
    case MapType::kBool:
      for (size_t i = 0; i < n; ++i) y[i] = x[i] != 0 ? 1 : 0;
      return;
    case MapType::kCodes: {
      const float low = static_cast<float>((format.q.sign == Sign::kU8 ? 0 : -128) - format.q.zero_point);
      return quantize_run(n, Quotient(format.q.scale), ByteStore(low, low + 255.0f, format.q.zero_point, format.q.sign),
                          y, [&](size_t i, size_t left) EK_LAMBDA { return load_f32_n(x + i, left); });
    }
  }
}

}  // namespace
}  // namespace ek
