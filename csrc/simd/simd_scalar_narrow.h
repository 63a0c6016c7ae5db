// What simd_scalar does with packed weights of fewer than 8 bits.
#pragma once

#include "simd/simd_scalar.h"

namespace ek {
namespace {

EK_INLINE Line low_nibbles(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] &= 0x0F;
  return x;
}
EK_INLINE Line high_nibbles(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] = static_cast<uint8_t>(x.v[i] >> 4);
  return x;
}
/// The lowest two bits of every byte; and the two above them, below others of no use.
EK_INLINE Line low_pairs(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] &= 3;
  return x;
}
EK_INLINE Line next_pairs(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] = static_cast<uint8_t>(x.v[i] >> 2);
  return x;
}
/// 3 x mod 256 of every byte, and what that leaves: floor(3 x / 256), in [0, 2].
EK_INLINE Line times3(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] = static_cast<uint8_t>(3 * x.v[i]);
  return x;
}
EK_INLINE Line thirds(Line x) {
  for (int i = 0; i < 64; ++i) x.v[i] = static_cast<uint8_t>(3 * x.v[i] >> 8);
  return x;
}
constexpr bool kByteDots = false;  // dot_u8 costs no more than a dot_u4, and its offset is 0
constexpr int32_t kDotOffset = 0;
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) {
  for (int i = 0; i < 16; ++i) {
    int32_t sum = 0;
    for (int j = 0; j < 4; ++j) sum += a.v[j] * w.v[4 * i + j];
    acc.v[i] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum));
  }
  return acc;
}
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) {
  for (int i = 0; i < 16; ++i) {
    int32_t sum = 0;
    for (int j = 0; j < 4; ++j) sum += a.v[j] * w.v[4 * i + j];
    acc.v[i] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum));
  }
  return acc;
}

}  // namespace
}  // namespace ek
