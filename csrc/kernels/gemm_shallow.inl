// gemm_shallow: a few k-quads of weights stay in registers, and any number of rows goes by.
//
// Why        a tile of 6 rows loads a line of B for every row where it stores as it goes, and its start and its end are
//            as long as 4 to 8 quads of products. Here a row is its broadcasts, its products and its bytes.
// Which      8-bit results without a residual, operands of the native sign, the depths of is_shallow(): 1x1 layers of 8
//            to 32 channels, 3x3 layers on the three of an image.
// Stores     one or two strips: four or two rows together, whose bytes then fill a register.
// Registers  lines of B, as many strips at once as there is room for; starting values and multipliers of these.
#pragma once

#include "kernels/epilogue.inl"

#ifdef EK_SIMD_SHALLOW

namespace ek {
namespace {

/// The strips from `first` on.
template <int Taps, int Quads, int S>
void shallow_strips(const GemmTile& t, const Epilogue& e, size_t first) {
  Line w[Taps * Quads][S];
  unroll<Taps * Quads>([&](auto q) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA {
      w[q.value][s.value] = load_line(t.b + q.value * t.b_step + (first + s.value) * 64);
      keep(w[q.value][s.value]);
    });
  });
  I32 init[S];
  F32 multiplier[S];
  unroll<S>([&](auto s) EK_LAMBDA {
    init[s.value] = load_i32(t.init + (first + s.value) * kStrip);
    multiplier[s.value] = load_f32(e.multiplier + t.col0 + (first + s.value) * kStrip);
  });
  ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
  bytes.expect(multiplier);
  uint8_t* c = static_cast<uint8_t*>(t.c) + first * kStrip;
  const size_t rows = t.rows, ldc = t.ldc, left = t.cols - first * kStrip, cols = left < S * kStrip ? left : S * kStrip;
  const auto some_rows = [&](auto count, size_t row) EK_LAMBDA {
    constexpr int kCount = decltype(count)::value;
    F32 y[kCount * S];
    unroll<kCount>([&](auto r) EK_LAMBDA {
      I32 acc[S];
      unroll<S>([&](auto s) EK_LAMBDA { acc[s.value] = init[s.value]; });
      unroll<Taps>([&](auto tap) EK_LAMBDA {
        const uint8_t* const a = t.a[tap.value * rows + row + r.value];
        unroll<Quads>([&](auto q) EK_LAMBDA {
          const Act x = load_act(a + 4 * q.value);
          unroll<S>([&](auto s)
                        EK_LAMBDA { acc[s.value] = dot(acc[s.value], x, w[tap.value * Quads + q.value][s.value]); });
        });
      });
      unroll<S>([&](auto s)
                    EK_LAMBDA { y[r.value * S + s.value] = mul_f32(to_f32(acc[s.value]), multiplier[s.value]); });
    });
    store_rows<S>(bytes, c + row * ldc, ldc, y, cols);
  };
  constexpr int kTogether = together<S>;
  size_t row = 0;
  for (; row + kTogether <= rows; row += kTogether) some_rows(Int<kTogether>{}, row);
  if constexpr (kTogether > 1) {
    for (; row < rows; ++row) some_rows(Int<1>{}, row);
  }
}

/// All strips, at most kWide at once.
template <int Taps, int Quads, int kWide>
void shallow(const GemmTile& t, const Epilogue& e) {
  for (size_t first = 0; first < t.strips;) {
    const size_t left = t.strips - first;
    if (kWide == 4 && left == 4) {
      shallow_strips<Taps, Quads, kWide>(t, e, first);
      first += 4;
    } else if (left >= 2) {
      shallow_strips<Taps, Quads, 2>(t, e, first);
      first += 2;
    } else {
      shallow_strips<Taps, Quads, 1>(t, e, first);
      first += 1;
    }
  }
}

void gemm_shallow(const GemmTile& t, const Epilogue& e) {
  if (t.taps == 3) return shallow<3, 3, 2>(t, e);
  switch (t.k) {
    case 8:
      return shallow<1, 2, 4>(t, e);
    case 16:
      return shallow<1, 4, 4>(t, e);
    case 24:
      return shallow<1, 6, 4>(t, e);
    default:
      return shallow<1, 8, 2>(t, e);
  }
}

}  // namespace
}  // namespace ek

#endif
