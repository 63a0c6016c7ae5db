#include "gemm/pack.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/status.h"

namespace ek {
namespace {

constexpr size_t kQuad = 4;

int32_t wrapping_sub(int32_t a, uint32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) - b); }

}  // namespace

bool PackedShape::bytes(size_t* out) const {
  size_t columns = 0, quads_checked = 0, bytes_per_column = 0;
  return checked_add(n, kStrip - 1, &columns) && checked_add(k_per_tap, kQuad - 1, &quads_checked) &&
         checked_mul(taps, quads_checked / kQuad, &quads_checked) &&
         checked_mul(quads_checked, kQuad, &bytes_per_column) &&
         checked_add(bytes_per_column, sizeof(int32_t), &bytes_per_column) &&
         checked_mul(columns / kStrip * kStrip, bytes_per_column, out);
}

void pack_weights(const PackedShape& shape, const int8_t* w, ptrdiff_t stride_n, ptrdiff_t stride_tap,
                  ptrdiff_t stride_k, uint8_t* out) {
  size_t bytes = 0;
  const bool fits = shape.bytes(&bytes);
  EK_ASSERT(fits);
  (void)fits;
  std::memset(out, 0, bytes);
  if (shape.taps * shape.k_per_tap == 0) return;  // `w` may be null, which takes no offset
  int32_t* colsum = reinterpret_cast<int32_t*>(out + shape.colsum_offset());
  const size_t quads_per_tap = ceil_div(shape.k_per_tap, kQuad);
  for (size_t n = 0; n < shape.n; ++n) {
    const size_t panel = n / kPanel, width = shape.panel_width(panel);
    uint8_t* column = out + shape.panel_offset(panel) + n % kPanel * kQuad;
    const int8_t* from = w + static_cast<ptrdiff_t>(n) * stride_n;
    uint32_t sum = 0;
    for (size_t tap = 0; tap < shape.taps; ++tap) {
      const int8_t* row = from + static_cast<ptrdiff_t>(tap) * stride_tap;
      for (size_t k = 0; k < shape.k_per_tap; ++k) {
        const int8_t value = row[static_cast<ptrdiff_t>(k) * stride_k];
        const size_t quad = tap * quads_per_tap + k / kQuad;
        column[quad * width * kQuad + k % kQuad] = static_cast<uint8_t>(value);
        sum += static_cast<uint32_t>(int32_t{value});
      }
    }
    colsum[n] = static_cast<int32_t>(sum);
  }
}

size_t depthwise_packed_bytes(size_t channels, size_t taps) {
  return round_up(channels, kStrip) * (round_up(taps, kQuad) + sizeof(int32_t));
}

void pack_depthwise(size_t channels, size_t taps, const int8_t* w, ptrdiff_t stride_channel, ptrdiff_t stride_tap,
                    uint8_t* out) {
  std::memset(out, 0, depthwise_packed_bytes(channels, taps));
  int32_t* colsum = reinterpret_cast<int32_t*>(out + round_up(channels, kStrip) * round_up(taps, kQuad));
  const size_t quads = ceil_div(taps, kQuad);
  for (size_t c = 0; c < channels; ++c) {
    uint8_t* lane = out + c / kStrip * quads * kStrip * kQuad + c % kStrip * kQuad;
    for (size_t t = 0; t < taps; ++t) {
      const int8_t value = w[static_cast<ptrdiff_t>(c) * stride_channel + static_cast<ptrdiff_t>(t) * stride_tap];
      lane[t / kQuad * kStrip * kQuad + t % kQuad] = static_cast<uint8_t>(value);
      colsum[c] += value;
    }
  }
}

const int32_t* depthwise_colsum(const uint8_t* packed, size_t channels, size_t taps) {
  return reinterpret_cast<const int32_t*>(packed + round_up(channels, kStrip) * round_up(taps, kQuad));
}

void make_init(const Kernels& kernels, Sign a_sign, int32_t a_zero_point, const int32_t* colsum, const int32_t* bias,
               size_t n, int32_t* init) {
  int32_t zero_point = a_zero_point;
  if (a_sign != kernels.native_sign) zero_point += kernels.native_sign == Sign::kU8 ? 128 : -128;
  const size_t padded = round_up(n, kStrip), given = bias == nullptr ? 0 : n;
  if (given != 0) std::memcpy(init, bias, given * sizeof *init);
  std::fill(init + given, init + padded, 0);
  if (zero_point == 0) return;
  for (size_t i = 0; i < padded; ++i) {
    init[i] = wrapping_sub(init[i], static_cast<uint32_t>(zero_point) * static_cast<uint32_t>(colsum[i]));
  }
}

}  // namespace ek
