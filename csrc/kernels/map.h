// One operation of an element-wise chain over a block of lanes, and the way of a block from and to a tensor's type.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

// Operations by number in a file, name, operands, and whether whole numbers have them. A truth is 0 or 1; what is not 0
// is true. NaN: stays one in everything but comparisons (false) and tests of truth (true); MIN and MAX give it.
// ROUND_F16 and ROUND_BF16 give the nearest half, ties to even, as float32: what is past the largest is infinite.
#define EK_MAP_OPS(X)                            \
  X(kCopy, 0, "COPY", 1, true)                   \
  X(kNeg, 1, "NEG", 1, true)                     \
  X(kAbs, 2, "ABS", 1, true)                     \
  X(kSign, 3, "SIGN", 1, true)                   \
  X(kSqrt, 4, "SQRT", 1, false)                  \
  X(kReciprocal, 5, "RECIPROCAL", 1, false)      \
  X(kExp, 6, "EXP", 1, false)                    \
  X(kLog, 7, "LOG", 1, false)                    \
  X(kSin, 8, "SIN", 1, false)                    \
  X(kCos, 9, "COS", 1, false)                    \
  X(kTan, 10, "TAN", 1, false)                   \
  X(kAsin, 11, "ASIN", 1, false)                 \
  X(kAcos, 12, "ACOS", 1, false)                 \
  X(kAtan, 13, "ATAN", 1, false)                 \
  X(kSinh, 14, "SINH", 1, false)                 \
  X(kCosh, 15, "COSH", 1, false)                 \
  X(kTanh, 16, "TANH", 1, false)                 \
  X(kErf, 17, "ERF", 1, false)                   \
  X(kSigmoid, 18, "SIGMOID", 1, false)           \
  X(kSilu, 19, "SILU", 1, false)                 \
  X(kGelu, 20, "GELU", 1, false)                 \
  X(kGeluTanh, 21, "GELU_TANH", 1, false)        \
  X(kSoftplus, 22, "SOFTPLUS", 1, false)         \
  X(kFloor, 23, "FLOOR", 1, false)               \
  X(kCeil, 24, "CEIL", 1, false)                 \
  X(kRound, 25, "ROUND", 1, false)               \
  X(kNot, 26, "NOT", 1, true)                    \
  X(kIsNan, 27, "IS_NAN", 1, false)              \
  X(kIsInf, 28, "IS_INF", 1, false)              \
  X(kAdd, 29, "ADD", 2, true)                    \
  X(kSub, 30, "SUB", 2, true)                    \
  X(kMul, 31, "MUL", 2, true)                    \
  X(kDiv, 32, "DIV", 2, true)                    \
  X(kMin, 33, "MIN", 2, true)                    \
  X(kMax, 34, "MAX", 2, true)                    \
  X(kPow, 35, "POW", 2, true)                    \
  X(kMod, 36, "MOD", 2, true)                    \
  X(kFmod, 37, "FMOD", 2, true)                  \
  X(kLess, 38, "LESS", 2, true)                  \
  X(kLessEqual, 39, "LESS_EQUAL", 2, true)       \
  X(kGreater, 40, "GREATER", 2, true)            \
  X(kGreaterEqual, 41, "GREATER_EQUAL", 2, true) \
  X(kEqual, 42, "EQUAL", 2, true)                \
  X(kAnd, 43, "AND", 2, true)                    \
  X(kOr, 44, "OR", 2, true)                      \
  X(kXor, 45, "XOR", 2, true)                    \
  X(kPrelu, 46, "PRELU", 2, true)                \
  X(kWhere, 47, "WHERE", 3, true)                \
  X(kClip, 48, "CLIP", 3, true)                  \
  X(kMulAdd, 49, "MUL_ADD", 3, true)             \
  X(kRoundF16, 50, "ROUND_F16", 1, false)        \
  X(kRoundBf16, 51, "ROUND_BF16", 1, false)

#define EK_MAP_OP_NUMBER(op, number, name, operands, whole) op = number,
enum class MapOp : uint8_t { EK_MAP_OPS(EK_MAP_OP_NUMBER) };
#undef EK_MAP_OP_NUMBER

/// How a tensor holds its items: those of 8 bits stand for reals in a float chain, and for themselves in one of whole
/// numbers.
enum class MapType : uint8_t { kF32, kF16, kBf16, kI64, kI32, kBool, kCodes };
struct MapFormat {
  MapType type;
  QuantParams q;  // of kCodes
};

/// An operand of a block: lane i is p[i & walk]. walk is all ones, or 0 for a line of kStrip equal items.
template <typename T>
struct MapSource {
  const T* p;
  size_t walk;
};

struct MapKernels {
  // y = op(x[0], x[1], x[2]), n lanes; y is one of the operands, or apart from them.
  EK_KERNEL void (*map)(MapOp op, const MapSource<float>* x, size_t n, float* y);
  // n items as float32; and back, where a whole number is cut off toward zero and held in its type's range (0 for a
  // NaN), 8 bits are quantized, a half is the nearest one, and a truth is "not 0".
  EK_KERNEL void (*map_load)(const uint8_t* x, MapFormat format, size_t n, float* y);
  EK_KERNEL void (*map_store)(const float* x, MapFormat format, size_t n, uint8_t* y);
  // The same on int64, which wraps. DIV is cut off toward zero; DIV, MOD and FMOD by 0 give 0. What is stored in fewer
  // bits keeps the lower ones.
  EK_KERNEL void (*map_i64)(MapOp op, const MapSource<int64_t>* x, size_t n, int64_t* y);
  EK_KERNEL void (*map_load_i64)(const uint8_t* x, MapFormat format, size_t n, int64_t* y);
  EK_KERNEL void (*map_store_i64)(const int64_t* x, MapFormat format, size_t n, uint8_t* y);
};

#define EK_MAP_KERNELS(X) \
  X(map)                  \
  X(map_load)             \
  X(map_store)            \
  X(map_i64)              \
  X(map_load_i64)         \
  X(map_store_i64)

}  // namespace ek
