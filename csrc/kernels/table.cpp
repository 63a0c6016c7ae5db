#include <atomic>
#include <cstdlib>

#include "kernels/fill.h"
#include "kernels/kernels.h"

EK_DECLARE_KERNELS(scalar)
#if defined(__x86_64__)
EK_DECLARE_KERNELS(avx2)
EK_DECLARE_KERNELS(avxvnni)
EK_DECLARE_KERNELS(avx512vnni)
#elif defined(__aarch64__)
EK_DECLARE_KERNELS(neon)
EK_DECLARE_KERNELS(neon_dotprod)
EK_DECLARE_KERNELS(neon_i8mm)
#endif

#define EK_RETURN_KERNELS(isa)                         \
  {                                                    \
    static const Kernels table = make_kernels_##isa(); \
    return table;                                      \
  }

namespace ek {

const Kernels& kernels(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      EK_RETURN_KERNELS(avx2)
    case Isa::kAvxVnni:
      EK_RETURN_KERNELS(avxvnni)
    case Isa::kAvx512Vnni:
      EK_RETURN_KERNELS(avx512vnni)
#elif defined(__aarch64__)
    case Isa::kNeon:
      EK_RETURN_KERNELS(neon)
    case Isa::kNeonDotprod:
      EK_RETURN_KERNELS(neon_dotprod)
    case Isa::kNeonI8mm:
      EK_RETURN_KERNELS(neon_i8mm)
#endif
    default:
      EK_RETURN_KERNELS(scalar)
  }
}

namespace {
constexpr const char* kRowNames[kNumRows] = {
    "gemm_cube", "gemm_vector",       "conv_tile",    "depthwise_row", "depthwise_3x3", "flip_sign",
    "quantize",  "dequantize",        "quantize_row", "add",           "lookup",        "sum_rows",
    "max_rows",  "requantize",        "w4_quantize",  "w4_tile",       "kv_quantize",   "kv_attend",
    "norm_row",  "norm_quantize_row", "rotate_row",   "f32_tile",      "transpose"};
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
