// linear, once its operands have been checked: what the general path and the fast lane share.
#pragma once

#include <optional>

#include "bindings/gemm_operands.h"

namespace ek {

/// What linear() is asked for beyond its operands.
struct LinearOptions {
  Activation activation = Activation::kClamp;
  float lo = 0, hi = 0;  // of kClamp
  std::optional<float> x_scale, y_scale;
  int32_t x_zero_point = 0, y_zero_point = 0;
  OutKind kind = OutKind::kFloat32;  // kQuantized stands for either 8-bit kind
  Sign y_sign = Sign::kU8;
  bool scale_per_row = false;  // of a float32 x on 4-bit weights, whose groups have scales of their own otherwise
};

/// Operands that fit. `x` is of 8 bits where the options have an x_scale, float32 elsewhere.
struct LinearCall {
  Runtime rt{nullptr};
  const void* x = nullptr;
  size_t m = 0, ldx = 0;  // rows, and bytes from one to the next
  Sign x_sign = Sign::kU8;
  const PackedWeights* w = nullptr;
  const float* bias = nullptr;
  const float* residual = nullptr;
  size_t residual_ld = 0;  // floats
  void* y = nullptr;       // dense
};

/// Fails where the bias does not fit an int32 accumulator, before anything is written. Long products release the GIL.
void run_linear(const LinearCall& call, const LinearOptions& options);

}  // namespace ek
