// Probes: what the dot product and the loads of this ISA can do at most. The bench divides by them.
#pragma once

#include "kernels/partial.inl"
#include "kernels/probes.h"

namespace ek {
namespace {

/// The tile's own mix of instructions on operands that never leave L1: what no GEMM on this ISA can pass.
uint64_t dot_burst(size_t iterations) {
  constexpr int R = kTileRows, S = kTileStrips;
  uint8_t a[R * 4] = {};
  int16_t wide[R * 4] = {};
  int8_t b[S * 64] = {};
  int32_t c[R * S * kStrip] = {};
  I32 acc[R][S];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = load_i32(c + (r.value * S + s.value) * kStrip); });
  });
  for (size_t it = 0; it < iterations; ++it) {
    asm volatile(""
                 :
                 : "r"(a), "r"(wide), "r"(b)
                 : "memory");  // the operands may have changed: no product can be hoisted
    Line w[S];
    unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = load_line(b + s.value * 64); });
#ifdef EK_SIMD_SPREAD  // as gemm_spread does it
    const SpreadLine line = spread(w[0]);
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][0] = dot(acc[r.value][0], load_spread(wide + r.value * 4), line); });
#else
    unroll<R>([&](auto r) EK_LAMBDA {
      const Act x = load_act(a + r.value * 4);
      unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot(acc[r.value][s.value], x, w[s.value]); });
    });
#endif
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { store_i32(c + (r.value * S + s.value) * kStrip, acc[r.value][s.value]); });
  });
  asm volatile("" : : "r"(c) : "memory");  // the sums are used
  return static_cast<uint64_t>(iterations) * R * S * 64;
}

/// Reads n bytes as `streams` runs side by side, fetching into L2 what comes `prefetch` bytes later (0: the hardware's
/// guess alone).
uint64_t read_stream(const uint8_t* x, size_t n, size_t streams, size_t prefetch) {
  constexpr size_t kStep = 512;
  const size_t run = n / streams / kStep * kStep;
  I32 acc[8];
  unroll<8>([&](auto i) EK_LAMBDA { acc[i.value] = set1_i32(0); });
  for (size_t at = 0; at < run; at += kStep) {
    for (size_t s = 0; s < streams; ++s) {
      const uint8_t* const from = x + s * run + at;
      unroll<8>([&](auto i) EK_LAMBDA {
        if (prefetch != 0) __builtin_prefetch(from + prefetch + i.value * 64, 0, 2);
        acc[i.value] = add_i32(acc[i.value], load_i32(reinterpret_cast<const int32_t*>(from + i.value * 64)));
      });
    }
  }
  int32_t lanes[kStrip];
  unroll<7>([&](auto i) EK_LAMBDA { acc[0] = add_i32(acc[0], acc[i.value + 1]); });
  store_i32(lanes, acc[0]);
  uint64_t sum = 0;
  for (const int32_t lane : lanes) sum += static_cast<uint32_t>(lane);
  return sum;
}

}  // namespace
}  // namespace ek
