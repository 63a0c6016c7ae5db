// gemv: one row of C over four whole panels of weights, wherever they are.
//
// Operands   as gemm_tile's, one tile for each panel.
// Method     where the ISA has registers for all, the panels take turns of 1 KB, and one line of what comes 8 turns
//            later is fetched into L2: several streams of addresses, each announced, keep more lines on their way than
//            one. To fetch every line brings no more from memory, and takes a fifth of the speed from weights in L3.
// Exact      as gemm_tile: sums mod 2^32.
// Registers  4 x 4 accumulators (or 4) + 4 broadcasts; lines are read by the products.
#pragma once

#include "kernels/gemm_tile.inl"

namespace ek {
namespace {

constexpr int kPanelStrips = kPanel / kStrip;
constexpr size_t kStepBytes = kPanel * 4;  // one k-quad of a panel
constexpr int kTurn = 4;                   // k-quads of a panel in a row
constexpr size_t kAheadBytes = 8 * kTurn * kStepBytes;

template <bool Flip, int P>
void gemv_panels(const GemmTile* t, const Epilogue& e) {
  I32 acc[P][kPanelStrips];
  const int8_t* b[P];
  unroll<P>([&](auto p) EK_LAMBDA {
    b[p.value] = t[p.value].b;
    unroll<kPanelStrips>([&](auto s)
                             EK_LAMBDA { acc[p.value][s.value] = load_i32(t[p.value].init + s.value * kStrip); });
  });
  const auto multiply = [&](const uint8_t* a, auto quads) EK_LAMBDA {
    constexpr int kQuads = decltype(quads)::value;
    Act x[kQuads];
    unroll<kQuads>([&](auto q) EK_LAMBDA { x[q.value] = load_act(a + q.value * 4, Flip); });
    unroll<P>([&](auto p) EK_LAMBDA {
      if (kQuads == kTurn) __builtin_prefetch(b[p.value] + kAheadBytes, 0, 2);
      unroll<kQuads>([&](auto q) EK_LAMBDA {
        unroll<kPanelStrips>([&](auto s) EK_LAMBDA {
          const int8_t* line = b[p.value] + q.value * kStepBytes + s.value * 64;
          acc[p.value][s.value] = dot(acc[p.value][s.value], x[q.value], load_line(line));
        });
      });
      b[p.value] += kQuads * kStepBytes;
    });
  };
  const uint8_t* const a = t[0].a[0];
  const size_t k = t[0].k, tail = k % 4, whole = k - tail;
  size_t i = 0;
  for (; i + kTurn * 4 <= whole; i += kTurn * 4) multiply(a + i, Int<kTurn>{});
  for (; i < whole; i += 4) multiply(a + i, Int<1>{});
  if (tail != 0) {
    uint8_t quad[4];
    last_quad(a, k, quad);
    multiply(quad, Int<1>{});
  }
  unroll<P>([&](auto p) EK_LAMBDA {
    store_tile<1, kPanelStrips>(
        t[p.value], e, [](auto) EK_LAMBDA {}, [&](auto, auto s) EK_LAMBDA { return acc[p.value][s.value]; });
  });
}

template <bool Flip>
void gemv_of(const GemmTile* t, const Epilogue& e) {
  constexpr int kAtOnce = kTileStrips == kPanelStrips ? kGemvPanels : 1;
  for (size_t p = 0; p < kGemvPanels; p += kAtOnce) gemv_panels<Flip, kAtOnce>(t + p, e);
}

void gemv(const GemmTile* t, const Epilogue& e) { t->flip ? gemv_of<true>(t, e) : gemv_of<false>(t, e); }

}  // namespace
}  // namespace ek
