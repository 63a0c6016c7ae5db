#include <atomic>
#include <cstdlib>

#include "kernels/kernels.h"

namespace ek {

extern const Kernels kernels_scalar;
#if defined(__x86_64__)
extern const Kernels kernels_avx2, kernels_avxvnni, kernels_avx512vnni;
#elif defined(__aarch64__)
extern const Kernels kernels_neon, kernels_neon_dotprod, kernels_neon_i8mm;
#endif

const Kernels& kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return kernels_avx2;
    case Isa::kAvxVnni:
      return kernels_avxvnni;
    case Isa::kAvx512Vnni:
      return kernels_avx512vnni;
#elif defined(__aarch64__)
    case Isa::kNeon:
      return kernels_neon;
    case Isa::kNeonDotprod:
      return kernels_neon_dotprod;
    case Isa::kNeonI8mm:
      return kernels_neon_i8mm;
#endif
    default:
      return kernels_scalar;
  }
}

namespace {
constexpr const char* kRowNames[kNumRows] = {"gemm_cube",     "gemm_vector", "conv_tile",   "depthwise_row",
                                             "depthwise_3x3", "flip_sign",   "quantize",    "dequantize",
                                             "quantize_row",  "add",         "lookup",      "sum_rows",
                                             "max_rows",      "requantize",  "w4_quantize", "w4_tile"};
std::atomic<uint64_t> g_counts[kNumIsas][kNumRows];

std::atomic<uint64_t>& counter(Isa isa, Row row) { return g_counts[static_cast<int>(isa)][static_cast<int>(row)]; }
}  // namespace

const char* row_name(Row row) { return kRowNames[static_cast<int>(row)]; }

void count_row(const Runtime& rt, Row row, uint64_t calls) {
  counter(rt.kernels->isa, row).fetch_add(calls, std::memory_order_relaxed);
}

uint64_t row_count(Isa isa, Row row) { return counter(isa, row).load(std::memory_order_relaxed); }

void reset_row_counts() {
  for (auto& isa : g_counts) {
    for (auto& count : isa) count.store(0, std::memory_order_relaxed);
  }
}

}  // namespace ek
