// Codes of keys, values and queries. Methods and rounding are written at KvQuantize (kernels/kv.h).
//
// Bits   max and min have one result in any order; a division, a product and a rounding follow, each correctly rounded.
// Edges  a value that is not finite, and a scale or an offset past float16, are refused before anything is stored;
//        a group whose scale rounds to 0 is stored as zeros (its offset, if asymmetric).
#pragma once

#include "kernels/kv.h"
#include "kernels/partial.inl"

namespace ek {
namespace {

constexpr uint16_t kF16Infinity = 0x7C00;

/// x as float16, and that as float32.
EK_INLINE float through_f16(float x, uint16_t* half) {
  uint16_t halves[16] = {};
  store_f16_n(halves, set1_f32(x), 1);
  *half = halves[0];
  float lanes[16];
  store_f32(lanes, load_f16(halves));
  return lanes[0];
}

EK_INLINE bool all_within(const float* x, size_t n, float limit) {
  const F32 top = set1_f32(limit);
  for (size_t i = 0; i < n; i += kStrip) {
    if (!all_below(abs_f32(load_f32_n(x + i, n - i)), top)) return false;
  }
  return true;
}

/// The codes of one group; n is at most kMaxKvGroup.
EK_INLINE bool quantize_group(const float* x, size_t n, bool int8, bool asymmetric, uint8_t* codes, uint16_t* scale,
                              uint16_t* offset) {
  float padded[kMaxKvGroup];  // with a value of the group, which moves neither its maximum nor its minimum
  const size_t vectors = (n + kStrip - 1) / kStrip;
  for (size_t i = 0; i < vectors * kStrip; ++i) padded[i] = x[i < n ? i : 0];
  const F32 none = set1_f32(0.0f);
  F32 most = load_f32(padded), least = sub_f32(none, most), size = abs_f32(most);
  for (size_t i = 1; i < vectors; ++i) {
    const F32 v = load_f32(padded + i * kStrip);
    most = max_f32(v, most);
    least = max_f32(sub_f32(none, v), least);
    size = max_size_f32(v, size);
  }
  const float levels = int8 ? (asymmetric ? 255.0f : 127.0f) : (asymmetric ? 15.0f : 7.0f);
  const float span = asymmetric ? max_lane(most) + max_lane(least) : max_lane(size);
  const F32 step = set1_f32(through_f16(span / levels, scale));
  if (*scale >= kF16Infinity) return false;
  F32 low = none;
  if (asymmetric) {
    low = set1_f32(through_f16(-max_lane(least), offset));
    if ((*offset & 0x7FFF) >= kF16Infinity) return false;
  }
  const F32 lo = set1_f32(asymmetric ? 0.0f : -levels), hi = set1_f32(levels);
  const I32 zero = set1_i32(asymmetric ? 0 : int8 ? 128 : 8);
  for (size_t i = 0; i < n; i += kStrip) {
    const F32 v = div_f32(sub_f32(load_f32(padded + i), low), step);
    store_bytes_n(codes + i, add_i32(rne_i32(clamp(v, lo, hi)), zero), n - i);
  }
  return true;
}

bool kv_quantize(const KvQuantize& q) {
  constexpr float kInfinity = __builtin_inff();
  // What rounds past the type's largest value is not stored as infinity.
  const float limit = q.kind == KvKind::kFloat16 ? 65520.0f : q.kind == KvKind::kBfloat16 ? 0x1.ffp127f : kInfinity;
  if (!all_within(q.x, q.n, limit)) return false;
  if (q.kind == KvKind::kFloat32) {
    copy_bytes(q.codes, q.x, q.n * sizeof(float));
    return true;
  }
  if (is_float(q.kind)) {
    uint16_t* const halves = reinterpret_cast<uint16_t*>(q.codes);
    for (size_t i = 0; i < q.n; i += kStrip) {
      const F32 v = load_f32_n(q.x + i, q.n - i);
      if (q.kind == KvKind::kFloat16) store_f16_n(halves + i, v, q.n - i < kStrip ? q.n - i : kStrip);
      if (q.kind == KvKind::kBfloat16) store_bf16_n(halves + i, v, q.n - i < kStrip ? q.n - i : kStrip);
    }
    return true;
  }
  for (size_t i = 0, g = 0; i < q.n; i += q.group, ++g) {
    const size_t n = q.n - i < q.group ? q.n - i : q.group;
    uint16_t* const offset = q.asymmetric ? q.offset + g : nullptr;
    if (!quantize_group(q.x + i, n, q.kind == KvKind::kInt8, q.asymmetric, q.codes + i, q.scale + g, offset)) {
      return false;
    }
  }
  return true;
}

bool kv_quantize_query(const float* x, size_t n, float levels, int8_t* codes, float* scale) {
  if (!all_within(x, n, __builtin_inff())) return false;
  F32 size = set1_f32(0.0f);
  for (size_t i = 0; i < n; i += kStrip) size = max_size_f32(load_f32_n(x + i, n - i), size);
  const float step = max_lane(size) / levels;
  *scale = step > 0 ? step : 1.0f;
  const F32 divisor = set1_f32(*scale), lo = set1_f32(-levels), hi = set1_f32(levels);
  for (size_t i = 0; i < n; i += kStrip) {
    const F32 v = div_f32(load_f32_n(x + i, n - i), divisor);
    store_bytes_n(reinterpret_cast<uint8_t*>(codes) + i, rne_i32(clamp(v, lo, hi)), n - i);
  }
  return true;
}

}  // namespace
}  // namespace ek
