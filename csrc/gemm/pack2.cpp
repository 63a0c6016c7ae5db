#include "gemm/pack2.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"

namespace ek {
namespace {

constexpr size_t kQuad = 4, kLineBytes = kStrip * kQuad, kPairs = 4;

/// What a group consists of: lines of every strip, with 4 pairs of bits and with 5 digits, and quads behind them.
struct Parts {
  size_t pairs, fives, rest;
  explicit Parts(size_t group) : pairs(group == 128 ? 5 : 0), fives(group == 128 ? 2 : 3), rest(group / 64) {}
};
constexpr std::array<unsigned, kTrits> kPlace = {81, 27, 9, 3, 1};

/// The fraction of 256 whose digits v / 243 has.
uint8_t fraction(unsigned v) { return static_cast<uint8_t>((v * 256 + 242) / 243); }

}  // namespace

size_t packed2_group_bytes(size_t group) {
  const Parts parts(group);
  return (parts.pairs + parts.fives) * kPanel * kQuad + parts.rest * kLineBytes + kPanel * sizeof(uint16_t);
}

void pack_weights2(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
                   const float* scale, float unit, uint8_t* out) {
  const Parts parts(shape.group);
  const size_t first_five = parts.pairs * kPairs, behind = first_five + parts.fives * kTrits;
  for (size_t first_n = 0; first_n < shape.n; first_n += kPanel) {
    for (size_t g = 0; g < shape.groups(); ++g) {
      const auto digit = [&](size_t quad, size_t j, size_t c) {
        const size_t k = g * shape.group + quad * kQuad + j, n = first_n + c;
        if (k >= shape.k || n >= shape.n) return 1u;
        return static_cast<unsigned>(w[static_cast<ptrdiff_t>(k) * stride_k + static_cast<ptrdiff_t>(n) * stride_n] +
                                     1);
      };
      for (size_t i = 0; i < parts.pairs; ++i) {
        for (size_t at = 0; at < kPanel * kQuad; ++at) {
          unsigned bits = 0;
          for (size_t d = 0; d < kPairs; ++d) bits |= digit(i * kPairs + d, at % kQuad, at / kQuad) << (2 * d);
          *out++ = static_cast<uint8_t>(bits);
        }
      }
      for (size_t i = 0; i < parts.fives; ++i) {
        for (size_t at = 0; at < kPanel * kQuad; ++at) {
          unsigned v = 0;
          for (size_t d = 0; d < kTrits; ++d) {
            v += kPlace[d] * digit(first_five + i * kTrits + d, at % kQuad, at / kQuad);
          }
          *out++ = fraction(v);
        }
      }
      for (size_t i = 0; i < parts.rest; ++i) {
        for (size_t at = 0; at < kLineBytes; ++at) {
          unsigned bits = 0;
          for (size_t d = 0; d < kPairs; ++d) {
            const size_t all = i * kPairs + d, strip = all / parts.rest;
            bits |= digit(behind + all % parts.rest, at % kQuad, strip * kStrip + at / kQuad) << (2 * d);
          }
          *out++ = static_cast<uint8_t>(bits);
        }
      }
      uint16_t halves[kPanel] = {};
      for (size_t c = 0; c < std::min(kPanel, shape.n - first_n); ++c) {
        halves[c] = to_half(scale[g * shape.n + first_n + c] / unit);
      }
      std::memcpy(out, halves, sizeof halves);
      out += sizeof halves;
    }
  }
}

}  // namespace ek
