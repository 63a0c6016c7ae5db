// Compile-time loops. GCC spills accumulators that sit in an array walked by a run-time loop; with every index a
// constant they stay in registers (kernels are held to this by looking at the speed of the register-only probe). No
// standard templates here: a weak symbol compiled with AVX-512 flags could be the one the linker keeps for old CPUs.
#pragma once

#define EK_INLINE inline __attribute__((always_inline))
#define EK_LAMBDA __attribute__((always_inline))

namespace ek {
namespace {

template <int N>
struct Int {
  static constexpr int value = N;
};

/// Side by side, not each within the next: GCC copies what it inlines once a level.
template <int kFirst, int kCount, typename F>
EK_INLINE void unroll_from(F&& body) {
  if constexpr (kCount > 0) body(Int<kFirst>{});
  if constexpr (kCount > 1) body(Int<kFirst + 1>{});
  if constexpr (kCount > 2) body(Int<kFirst + 2>{});
  if constexpr (kCount > 3) body(Int<kFirst + 3>{});
  if constexpr (kCount > 4) body(Int<kFirst + 4>{});
  if constexpr (kCount > 5) body(Int<kFirst + 5>{});
  if constexpr (kCount > 6) body(Int<kFirst + 6>{});
  if constexpr (kCount > 7) body(Int<kFirst + 7>{});
  if constexpr (kCount > 8) unroll_from<kFirst + 8, kCount - 8>(body);
}

/// body(Int<0>{}), ..., body(Int<N-1>{})
template <int N, typename F>
EK_INLINE void unroll(F&& body) {
  unroll_from<0, N>(body);
}

}  // namespace
}  // namespace ek
