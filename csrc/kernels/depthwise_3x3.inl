// depthwise_3x3: rows of output pixels under a 3x3 kernel, 64 bytes at a time.
//
// Method     the three pixels of a column are interleaved byte by byte, so that one dot product does a column of the
//            kernel and lanes are channels. A column serves every output pixel whose window it lies in: with stride 1
//            it is interleaved once and multiplied three times, with stride 2 every other column is shared by two.
// Blocks     64 channels in the lane order of the ISA's interleaving, as in depthwise_row; the last block of a pixel
//            overlaps its neighbor. 32 channels: two neighboring pixels make a block, so that windows move on by two.
// Weights    packed in fours of taps, row by row; brought into columns of three and a zero once per block.
#pragma once

#include "kernels/depthwise.inl"

namespace ek {
namespace {

/// Weights of the strips that make up a block, column by column: lane = (top, middle, bottom, 0).
EK_INLINE void load_columns(const int8_t* packed, size_t strip, size_t strips, Line (&columns)[3][4]) {
  uint32_t words[3][4][kStrip];
  for (size_t s = 0; s < 4; ++s) {
    uint32_t q[3][kStrip];  // taps 0..3, 4..7, 8
    copy_bytes(q, packed + (strip + s % strips) * sizeof q, sizeof q);
    for (size_t i = 0; i < kStrip; ++i) {
      words[0][s][i] = (q[0][i] & 0xFF) | (q[0][i] >> 24) << 8 | (q[1][i] >> 16 & 0xFF) << 16;
      words[1][s][i] = (q[0][i] >> 8 & 0xFF) | (q[1][i] & 0xFF) << 8 | (q[1][i] >> 24) << 16;
      words[2][s][i] = (q[0][i] >> 16 & 0xFF) | (q[1][i] >> 8 & 0xFF) << 8 | (q[2][i] & 0xFF) << 16;
    }
  }
  unroll<3>([&](auto k) EK_LAMBDA {
    Line lines[4];
    unroll<4>([&](auto s)
                  EK_LAMBDA { lines[s.value] = load_line(reinterpret_cast<const int8_t*>(words[k.value][s.value])); });
    to_block_order(lines);
    unroll<4>([&](auto s) EK_LAMBDA { columns[k.value][s.value] = lines[s.value]; });
  });
}

/// Three rows of the image under one row of the output; one outside of it is all zero points, and steps nowhere.
struct ColumnRows {
  const uint8_t* row[3];
  size_t step[3];
};

/// The column at pixel `x`, kPixels side by side.
template <int kPixels>
EK_INLINE void load_column(const Depthwise3x3& d, const ColumnRows& rows, size_t x, Line (&lines)[4]) {
  constexpr size_t kSpan = kBlock / kPixels;
  const uint8_t* from[3];
  uint8_t edge[3][kBlock];
  const bool inside = x < d.in_w && x + kPixels - 1 < d.in_w;  // x left of the image is negative: past every width
  for (size_t k = 0; k < 3; ++k) {
    from[k] = inside ? rows.row[k] + x * rows.step[k] : d.zeros;
    if (kPixels > 1 && !inside) {
      for (size_t j = 0; j < kPixels; ++j) {
        copy_bytes(edge[k] + j * kSpan, x + j < d.in_w ? rows.row[k] + (x + j) * rows.step[k] : d.zeros, kSpan);
      }
      from[k] = edge[k];
    }
  }
  interleave_block(from[0], from[1], from[2], from[2], lines);  // the fourth meets zero weights
}

/// One block of channels, `kMove` columns from one block of output pixels to the next.
template <int kPixels, int kMove>
EK_INLINE void depthwise_3x3_block(const Depthwise3x3& d, const Epilogue& e, size_t c) {
  Line weights[3][4];
  load_columns(d.weights, c / kStrip, 4 / kPixels, weights);
  I32 init[4];
  F32 multiplier[4];
  unroll<4>([&](auto s) EK_LAMBDA {
    const size_t at = c + static_cast<size_t>(s.value % (4 / kPixels)) * kStrip;
    init[s.value] = load_i32(d.init + at);
    multiplier[s.value] = load_f32(e.multiplier + at);
  });
  to_block_order(init);
  to_block_order(multiplier);
  ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
  bytes.expect(multiplier);
  const auto dots = [&](I32(&to)[4], const I32(&acc)[4], const Line(&lines)[4], auto k) EK_LAMBDA {
    unroll<4>([&](auto s)
                  EK_LAMBDA { to[s.value] = dot(acc[s.value], lines[s.value], weights[decltype(k)::value][s.value]); });
  };
  const size_t blocks = d.out_w / kPixels;
  for (size_t r = 0; r < d.out_rows; ++r) {
    ColumnRows rows;
    for (size_t k = 0; k < 3; ++k) {
      const uint8_t* row = d.rows[r * 3 + k];
      rows.row[k] = row == nullptr ? d.zeros : row + c;
      rows.step[k] = row == nullptr ? 0 : d.channels;
    }
    uint8_t* out = d.out + r * d.out_w * d.channels + c;
    size_t x = 0 - d.pad_left;
    Line lines[4];
    I32 done[4], next[4], after[4];  // `next` waits for its last column, `after` (kMove 1) for its last two
    load_column<kPixels>(d, rows, x, lines);
    dots(next, init, lines, Int<0>{});
    if constexpr (kMove == 1) {
      load_column<kPixels>(d, rows, ++x, lines);
      dots(next, next, lines, Int<1>{});
      dots(after, init, lines, Int<0>{});
    }
    for (size_t i = 0; i < blocks; ++i, out += kPixels * d.channels) {
      if constexpr (kMove == 2) {
        load_column<kPixels>(d, rows, ++x, lines);
        dots(next, next, lines, Int<1>{});
      }
      load_column<kPixels>(d, rows, ++x, lines);
      dots(done, next, lines, Int<2>{});
      if constexpr (kMove == 1) {
        dots(next, after, lines, Int<1>{});
        dots(after, init, lines, Int<0>{});
      } else {
        dots(next, init, lines, Int<0>{});
      }
      F32 real[4];
      unroll<4>([&](auto s) EK_LAMBDA { real[s.value] = mul_f32(to_f32(done[s.value]), multiplier[s.value]); });
      bytes.store_block(out, real);
    }
  }
}

void depthwise_3x3(const Depthwise3x3& d, const Epilogue& e) {
  if (d.channels < kBlock) return depthwise_3x3_block<2, 2>(d, e, 0);
  for (size_t c = 0; c < d.channels; c += kBlock) {
    const size_t at = c + kBlock <= d.channels ? c : d.channels - kBlock;
    d.stride == 1 ? depthwise_3x3_block<1, 1>(d, e, at) : depthwise_3x3_block<1, 2>(d, e, at);
  }
}

}  // namespace
}  // namespace ek
