// Blocks of 64 channels for ISAs whose interleaving keeps the natural order: nothing to reorder.
// Included by the simd headers that have no better way, after their own vectors.
#pragma once

namespace ek {
namespace {

/// Four rows of 64 bytes, interleaved by four: lines in block order.
EK_INLINE void interleave_block(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3,
                                Line (&lines)[4]) {
  unroll<4>([&](auto s) EK_LAMBDA {
    constexpr int at = decltype(s)::value * 16;
    lines[s.value] = interleave4(t0 + at, t1 + at, t2 + at, t3 + at);
  });
}
/// Brings 64 columns from natural to block order.
template <typename T>
EK_INLINE void to_block_order(T (&)[4]) {}

}  // namespace
}  // namespace ek
