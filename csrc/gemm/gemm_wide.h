// Products of 16-bit activations and packed 8-bit weights, exact: one product of the upper bytes and one of the lower
// ones, over the same weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/gemm.h"

namespace ek {

/// Most K: |byte| <= 255 and |w| <= 128, sums of which int32 holds.
inline constexpr size_t kMaxWideDepth = ((size_t{1} << 31) - 1) / (255 * 128);

struct GemmWideArgs {
  size_t m = 0;
  const float* x = nullptr;  // (m, k), dense, quantized as `q` says
  WideParams q;
  PackedView b;                   // one tap
  const double* start = nullptr;  // from make_wide_start
  void* c = nullptr;              // dense
  Epilogue epilogue;              // a real kind, without row_scale
  const Path* path = nullptr;     // as of GemmArgs
};

/// What is added to 256 * high + low for the zero point and for bytes of the native sign: [n].
void make_wide_start(const Kernels& kernels, const WideParams& q, const int32_t* colsum, size_t n, double* start);

/// The codes of n floats as bytes of the native sign.
void split_codes(const Runtime& rt, const float* x, size_t n, const WideParams& q, uint8_t* high, uint8_t* low);

const char* gemm_wide_path(const Runtime& rt, const GemmWideArgs& args);
/// Keys of all that it could take.
std::vector<const char*> gemm_wide_choices(const Runtime& rt, const GemmWideArgs& args);
/// Of a product whose x and c are there as floats.
size_t gemm_wide_scratch_bytes(const Runtime& rt, const GemmWideArgs& args);
void gemm_wide(const Runtime& rt, const GemmWideArgs& args, uint8_t* scratch);

}  // namespace ek
