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

template <int N>
struct Unroll {
  template <typename F>
  static EK_INLINE void run(F&& body) {
    Unroll<N - 1>::run(body);
    body(Int<N - 1>{});
  }
};

template <>
struct Unroll<0> {
  template <typename F>
  static EK_INLINE void run(F&&) {}
};

/// body(Int<0>{}), ..., body(Int<N-1>{})
template <int N, typename F>
EK_INLINE void unroll(F&& body) {
  Unroll<N>::run(body);
}

}  // namespace
}  // namespace ek
