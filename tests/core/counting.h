// Kernel tables that count and forward, to put in place of the product's: what they counted is what ran.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <utility>

#include "cpu/isa.h"
#include "kernels/table.h"

namespace ek::test {

#define EK_NAME(name) name,
#define EK_TEXT(name) #name,
enum class Kernel : size_t { EK_KERNELS(EK_NAME) kCount };
inline constexpr auto kNumKernels = static_cast<size_t>(Kernel::kCount);
inline constexpr const char* kKernelNames[] = {EK_KERNELS(EK_TEXT)};

// Besides pointers the table has isa, native_sign, tile_rows, tile_strips, w4_tile_rows, f32_tile_rows and
// f32_narrow_rows, a word each.
static_assert(sizeof(Kernels) == (kNumKernels + 7) * sizeof(void*), "EK_KERNELS does not name every kernel");

/// A table and what it counts. kSlots: one for each ISA, one for a table that no ISA names.
struct Counted {
  Kernels real{}, counting{};
  std::atomic<uint64_t> calls[kNumKernels] = {};
};
inline constexpr size_t kSlots = kNumIsas + 1;
inline Counted g_counted[kSlots];

template <size_t kSlot, Kernel kKernel, auto kMember, typename R, typename... A>
R forward(A... a) {
  g_counted[kSlot].calls[static_cast<size_t>(kKernel)].fetch_add(1, std::memory_order_relaxed);
  return (g_counted[kSlot].real.*kMember)(a...);
}

template <size_t kSlot, Kernel kKernel, auto kMember, typename Part, typename R, typename... A>
void wrap(R (*Part::*)(A...), Kernels* table) {
  if (table->*kMember != nullptr) table->*kMember = forward<kSlot, kKernel, kMember, R, A...>;
}

template <size_t kSlot>
void fill_slot(const Kernels& real) {
  Counted& slot = g_counted[kSlot];
  slot.real = slot.counting = real;
#define EK_WRAP(name) wrap<kSlot, Kernel::name, &Kernels::name>(&Kernels::name, &slot.counting);
  EK_KERNELS(EK_WRAP)
}

template <size_t... kSlot>
void fill_slot(size_t slot, const Kernels& real, std::index_sequence<kSlot...>) {
  ((slot == kSlot ? fill_slot<kSlot>(real) : void()), ...);
}

/// The counting form of `real`, in a slot that is free.
inline const Kernels* counting(size_t slot, const Kernels& real) {
  fill_slot(slot, real, std::make_index_sequence<kSlots>());
  return &g_counted[slot].counting;
}

/// From now on every table that kernels() gives out counts. Once, before anything runs.
inline void count_kernels() {
  for (const Isa isa : available_isas()) replace_kernels(isa, counting(static_cast<size_t>(isa), kernels(isa)));
}

inline void reset_calls() {
  for (Counted& slot : g_counted) {
    for (auto& calls : slot.calls) calls = 0;
  }
}

/// By kernel, those alone that ran since reset_calls().
using Calls = std::map<std::string, uint64_t>;
inline Calls calls_of(const Counted& slot) {
  Calls calls;
  for (size_t i = 0; i < kNumKernels; ++i) {
    if (slot.calls[i] != 0) calls[kKernelNames[i]] = slot.calls[i];
  }
  return calls;
}

}  // namespace ek::test
