// The kernel table: one struct of function pointers per ISA. Everything above asks the table; nothing above knows an
// intrinsic.
//
// Kernels are leaves: they get everything as arguments and give back numbers. They may read and write exactly the
// bytes their arguments name (a guard-page test holds them to it) and allocate nothing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/isa.h"
#include "kernels/kv.h"
#include "simd/sign.h"

namespace ek {

inline constexpr size_t kStrip = 16;        // columns in one vector of accumulators, on every ISA
inline constexpr size_t kPanel = 64;        // columns in one panel of packed weights
inline constexpr size_t kMaxTileRows = 6;   // rows of the tallest register tile
inline constexpr size_t kShallowRows = 48;  // rows at a time of a product whose weights stay in registers
inline constexpr size_t kGemvPanels = 4;    // panels that gemv takes
inline constexpr size_t kW4GemvPanels = 2;  // panels that w4_gemv takes

/// Type of C. kQuantized is 8-bit by a multiplier, straight from the accumulator; kRealQuantized is 8-bit from the real
/// result, and takes what the float kinds take.
enum class OutKind : uint8_t { kInt32, kQuantized, kFloat32, kFloat16, kBfloat16, kRealQuantized };

/// kSwiglu takes columns in pairs, a gate and what it gates: C has half as many columns.
enum class Activation : uint8_t { kClamp, kGelu, kGeluTanh, kSilu, kSwiglu };

/// Affine map of an 8-bit tensor: real = (q - zero_point) * scale.
struct QuantParams {
  float scale = 1.0f;
  int32_t zero_point = 0;
  Sign sign = Sign::kU8;
};

/// What happens between accumulate and store, in registers.
///   kInt32      C = acc
///   kQuantized  q = rne(clamp(float(acc) * multiplier[n], lo - zp, hi - zp)) + zp
///               with a residual r:  q = quantize(dequantize(q) + dequantize(r))          (the graph has Q/DQ between)
///   kFloat32    y = activation(float(acc) * (row_scale[m] * multiplier[n]) + bias[n]) + addend[m, n], a NaN stays one
///   others      the same y, rounded to the type of C once (quantized as `out` says)
struct Epilogue {
  OutKind kind = OutKind::kInt32;
  const float* multiplier = nullptr;  // [n], padded to a multiple of kStrip
  QuantParams out;                    // kQuantized: zero point and sign of q; scale is used with a residual only
  float lo = 0, hi = 0;               // kQuantized: clamp relative to the zero point; the real kinds: kClamp
  const float* bias = nullptr;        // real kinds; [n]; may be null
  const float* row_scale = nullptr;   // real kinds; [m]; may be null (1.0)
  // Residual, kQuantized only: one more 8-bit tensor of C's shape, its map, and the map of the sum.
  const uint8_t* residual = nullptr;
  size_t residual_ld = 0;  // bytes from row to row
  QuantParams residual_q, sum_q;
  float sum_lo = 0, sum_hi = 0;
  // Real kinds.
  Activation activation = Activation::kClamp;
  const float* addend = nullptr;  // of C's shape; may be null
  size_t addend_ld = 0;           // floats from row to row
};

/// Columns of C that the first `columns` accumulators of a row become, and the bytes they take.
inline size_t out_columns(const Epilogue& e, size_t columns) {
  return e.activation == Activation::kSwiglu ? columns / 2 : columns;
}
inline size_t out_bytes(const Epilogue& e, size_t columns) {
  const size_t item = e.kind == OutKind::kQuantized || e.kind == OutKind::kRealQuantized ? 1
                      : e.kind == OutKind::kFloat16 || e.kind == OutKind::kBfloat16      ? 2
                                                                                         : 4;
  return out_columns(e, columns) * item;
}

/// One register tile: rows x (strips * 16) of C, summed over taps x k.
struct GemmTile {
  const uint8_t* const* a;  // [taps][rows] pointers to k activation bytes, native sign
  size_t rows, taps, k;
  const int8_t* b;      // first line of the first strip; lines of one panel follow each other
  size_t b_step;        // bytes from one k-quad to the next (panel width * 4)
  const int32_t* init;  // [strips*16] starting value of the accumulators
  size_t strips;        // 1 .. 4
  size_t cols;          // columns that are stored, <= strips * 16
  void* c;              // as the epilogue says; its first result
  size_t ldc;           // bytes from row to row
  size_t row0, col0;    // where the tile lies in C: offsets into multiplier, bias, row_scale, residual
  bool flip;            // A has not the native sign
  bool stream_c;        // C is larger than the caches and on lines of 64 bytes: store 32-bit results past them
};

/// A run of output pixels of a depthwise convolution, all channels.
struct DepthwiseRow {
  const uint8_t* const* taps;      // [pixels][quads * 4] pointers to `channels` bytes, native sign
  size_t pixels, quads, channels;  // taps come in fours; those past the kernel's meet zero weights
  const int8_t* weights;           // [channels/16][quads][16][4], zero padded
  const int32_t* init;             // [channels], padded
  void* out;                       // the first pixel: bytes, int32 or floats, as the epilogue says
  size_t out_ld;                   // bytes from pixel to pixel
  size_t row;                      // index of the first pixel, for the residual
};

/// Rows of output pixels of a 3x3 depthwise convolution: 8-bit out, no residual, no dilation, stride 1 or 2 along the
/// row. Channels a multiple of 16, at least 64; or 32 with stride 1 and an even out_w.
struct Depthwise3x3 {
  const uint8_t* const* rows;  // [out_rows][3] rows of the image under each row of the output; null: outside of it
  const uint8_t* zeros;        // 64 zero points
  size_t out_rows, in_w, out_w, pad_left, stride, channels;
  const int8_t* weights;  // as in DepthwiseRow
  const int32_t* init;
  uint8_t* out;  // dense
};

inline constexpr size_t kOctet = 8;  // values of k in one line of 4-bit weights

inline constexpr size_t kW4Run = 128;  // values of a row of activations that share a scale: whole groups of any size

/// One row of activations for w4_tile. The last run and the last group may be short.
struct W4Row {
  const float* x;  // k values
  size_t k, group;
  bool whole_row;  // the runs have one scale, that of the row
  float unit;      // of the weights' scales
  int8_t* q;       // [k rounded up to kStrip], the rest zero
  float* scale;    // [runs], each times unit, `stride` apart as are the starts
  int32_t* start;  // [groups], -8 * sum of the group's q: what the weights' +8 adds, taken back
  size_t stride;
};

/// rows x one panel of C on 4-bit weights.
struct W4Tile {
  const int8_t* q;  // [rows], ldq bytes apart; from w4_quantize, as are scale and start
  size_t ldq;
  const float* scale;                     // [runs][rows]
  const int32_t* start;                   // [groups][rows]
  size_t rows, octets, octets_per_group;  // the last group may have fewer octets
  const uint8_t* panel;                   // gemm/pack4.h has its layout
  bool has_offset;
  uint8_t* c;
  size_t ldc;         // bytes from row to row
  size_t cols;        // columns that are stored, <= kPanel
  size_t row0, col0;  // where the tile lies in the product
};

/// Affine maps of the columns of a dense matrix, both arrays padded to a multiple of kStrip. Zero points are integers.
struct ColumnMaps {
  const float* scale;
  const float* zero_point;
  Sign sign;
};

/// A row to be normed: (x * factor) * gain, element by element.
struct NormRow {
  const float* x;
  const float* gain;
  size_t n;
  float factor;
};

inline constexpr size_t kMaxF32Rows = 4;

/// rows x one panel of C on float32 weights, [k][64], padded columns zero.
struct F32Tile {
  const float* x;    // [rows], ldx floats apart
  size_t ldx, rows;  // 1 .. kMaxF32Rows
  size_t k;
  const float* panel;
  uint8_t* c;
  size_t ldc;         // bytes from row to row
  size_t cols;        // columns that are stored, <= kPanel
  size_t row0, col0;  // where the tile lies in the product
};

struct Kernels {
  Isa isa;
  Sign native_sign;    // what gemm_tile and depthwise_* multiply
  size_t tile_rows;    // best height of a register tile, <= kMaxTileRows
  size_t tile_strips;  // best width, in strips

  void (*gemm_tile)(const GemmTile& tile, const Epilogue& epilogue);
  // As gemm_tile for any number of rows, where is_shallow(), and no flip. Null where there are no registers for it.
  void (*gemm_shallow)(const GemmTile& tile, const Epilogue& epilogue);
  // As gemm_tile with int32 results, no taps and k of 1 to 4, for up to kMaxTileRows rows of any number of columns.
  // `strips`, b_step and stream_c do not count.
  void (*gemm_thin)(const GemmTile& tile);
  // kGemvPanels tiles of the same row, no taps, each a whole panel. They are read side by side, so they should lie far
  // apart; memory after them is fetched, never read.
  void (*gemv)(const GemmTile* tiles, const Epilogue& epilogue);
  void (*depthwise_row)(const DepthwiseRow& row, const Epilogue& epilogue);
  void (*depthwise_3x3)(const Depthwise3x3& rows, const Epilogue& epilogue);

  size_t w4_tile_rows;  // best height of a w4_tile, its largest too
  // As quantize_rows, over each run or the whole row: s8 on every ISA.
  void (*w4_quantize)(const W4Row& row);
  // y = sum over runs, ascending, of scale_q * the sum over their groups, ascending, of (float(dot) + offset *
  // float(sum q)) * scale_w, then plus bias and the rest of a real kind's epilogue.
  void (*w4_tile)(const W4Tile& tile, const Epilogue& epilogue);
  // kW4GemvPanels tiles of the same single row, side by side, as gemv.
  void (*w4_gemv)(const W4Tile* tiles, const Epilogue& epilogue);

  // y = x ^ 0x80: u8 <-> s8. Element-wise, n bytes.
  void (*flip_sign)(const uint8_t* x, size_t n, uint8_t* y);
  // y = clamp(rne(x / scale), ..) + zero_point, to q.sign.
  void (*quantize)(const float* x, size_t n, QuantParams q, uint8_t* y);
  // y[c][r] = x[r][c], bytes; rows ldx and ldy apart.
  void (*transpose)(const uint8_t* x, size_t rows, size_t cols, size_t ldx, uint8_t* y, size_t ldy);
  // Three planes of n floats, `plane` apart, to n triples of bytes.
  void (*quantize_triples)(const float* x, size_t plane, size_t n, QuantParams q, uint8_t* y);
  void (*dequantize)(const uint8_t* x, size_t n, QuantParams q, float* y);
  // The same with a map for each of n columns.
  void (*quantize_columns)(const float* x, size_t rows, size_t n, const ColumnMaps& maps, uint8_t* y);
  void (*dequantize_columns)(const uint8_t* x, size_t rows, size_t n, const ColumnMaps& maps, float* y);
  // Rows of n floats, symmetric, each with a scale of its own: max|x| / 127, NaN passed over, or 1 where the peak is
  // below 2^-110; y = rne(x * (127 / max|x|)), or -128 for a NaN or an infinity (beside which all else is 0). As kU8,
  // 128 is added: what x86 multiplies. Rows of x and y are ldx and ldy apart.
  void (*quantize_rows)(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy,
                        float* scale);
  // y = quantize(dequantize(a) + dequantize(b)), clamped to [lo, hi] around the zero point of y.
  void (*add)(const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n, QuantParams qy, float lo,
              float hi, uint8_t* y);
  void (*lookup)(const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y);  // y[i] = table[x[i]]
  // acc[c] = sum over `rows` pointers of value(row[c]), as int32; x bytes read as `sign`.
  void (*sum_rows)(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, int32_t* acc);
  // y[c] = max over rows.
  void (*max_rows)(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, uint8_t* y);
  // y = rne(clamp(float(acc) * multiplier, lo, hi)) + zero_point
  void (*requantize)(const int32_t* acc, size_t n, float multiplier, float lo, float hi, int32_t zero_point,
                     uint8_t* y);

  // What a static linear layer makes of its scales. y = float(x_scale * scale / y_scale), in double.
  void (*fold_scales)(const float* scale, size_t n, float x_scale, float y_scale, float* y);
  // y = rne(bias / (x_scale * scale)), in double. Returns the first place where |y| is not below 2^30, or n.
  size_t (*fold_bias)(const float* bias, const float* scale, size_t n, float x_scale, int32_t* y);

  // Keys and values (kernels/kv.h). False: a value that the format cannot hold; nothing may then be used.
  bool (*kv_quantize)(const KvQuantize& row);
  // n values of a query: scale = max|x| / levels (1 where that is 0), codes = rne(x / scale). False: not finite.
  bool (*kv_quantize_query)(const float* x, size_t n, float levels, int8_t* codes, float* scale);
  void (*kv_attend)(const KvSegment& segment);
  // Joins a segment's row to the running one (l = 0: empty): both scaled by exp of what their m is below the larger.
  void (*kv_merge)(size_t n, float* m, float* l, float* o, float part_m, float part_l, const float* part_o);
  void (*kv_finish)(size_t n, float l, float* o);  // o /= l
  // Rows of a decoder. sum_squares: over 64 lanes and a fixed tree.
  float (*sum_squares)(const float* x, size_t n);
  void (*norm_row)(const NormRow& row, float* y);
  // norm_row, then quantize_rows.
  void (*norm_quantize_row)(const NormRow& row, Sign sign, uint8_t* y, float* scale);
  // Element i of x turns with element i + half: y may be x.
  void (*rotate_row)(const float* x, const float* cosines, const float* sines, size_t half, float* y);
  // y = sum over k, ascending, of x * w, then plus bias and the rest of a real kind's epilogue.
  void (*f32_tile)(const F32Tile& tile, const Epilogue& epilogue);

  // Probes for the bench. dot_burst: register-only dot products, returns multiply-adds done. read_stream: reads n
  // bytes in `streams` runs, prefetching so many bytes ahead, and returns a sum of them.
  uint64_t (*dot_burst)(size_t iterations);
  uint64_t (*read_stream)(const uint8_t* x, size_t n, size_t streams, size_t prefetch);
};

/// The table of an ISA that available_isas() lists.
const Kernels& kernels(Isa isa);

/// What an operator needs besides its operands.
struct Runtime {
  const Kernels* kernels;
  int threads = 1;
};

/// Whether gemm_shallow takes it: so few quads that the weights of some strips fit into registers, and 8-bit results
/// without a residual.
inline bool is_shallow(const Kernels& kernels, size_t taps, size_t k, const Epilogue& epilogue) {
  const bool few = (taps == 1 && (k == 8 || k == 16 || k == 24 || k == 32)) || (taps == 3 && k == 12);
  return kernels.gemm_shallow != nullptr && few && epilogue.kind == OutKind::kQuantized && epilogue.residual == nullptr;
}

}  // namespace ek
