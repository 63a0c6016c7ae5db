// Pooling of float32 images of up to three axes, channels last.
#pragma once

#include <cstddef>

#include "conv/window3.h"
#include "kernels/kernels.h"

namespace ek {

struct PoolF32Args {
  Window3 window;
  size_t channels = 0;
  bool average = false;            // else a maximum
  bool count_include_pad = false;  // an average divides by all taps, else by those inside the image
  size_t power = 0;                // p of a norm in the place of both; 0 is none
  const float* x = nullptr;
  float* y = nullptr;
};

void pool_f32(const Runtime& rt, const PoolF32Args& args);

}  // namespace ek
