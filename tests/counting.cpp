// tests/core/counting.h for Python: kernel_calls.py builds this beside the installed package and loads it.
#include "core/counting.h"

#include <algorithm>
#include <cstring>

#define EK_EXPORT extern "C" __attribute__((visibility("default")))

namespace {

ek::test::Counted* slot_of(const char* isa) {
  for (const ek::Isa known : ek::available_isas()) {
    if (std::strcmp(ek::isa_name(known), isa) == 0) return &ek::test::g_counted[static_cast<size_t>(known)];
  }
  return nullptr;
}

}  // namespace

EK_EXPORT void counting_start() { ek::test::count_kernels(); }
EK_EXPORT void counting_reset() { ek::test::reset_calls(); }
EK_EXPORT size_t counting_kernels() { return ek::test::kNumKernels; }
EK_EXPORT const char* counting_name(size_t kernel) { return ek::test::kKernelNames[kernel]; }
EK_EXPORT uint64_t counting_calls(const char* isa, size_t kernel) { return slot_of(isa)->calls[kernel]; }
