#include "gemm/pack2.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "base/checked.h"

namespace ek {
namespace {

constexpr size_t kQuad = 4, kLineBytes = kStrip * kQuad;
constexpr size_t kSmallGroup = 64;  // has a quad more than whole lines
constexpr size_t kWholeLines = 3;   // a strip's, of a small group
constexpr std::array<unsigned, kTrits> kPlace = {81, 27, 9, 3, 1};

/// The fraction of 256 whose digits v / 243 has.
uint8_t fraction(unsigned v) { return static_cast<uint8_t>((v * 256 + 242) / 243); }

}  // namespace

size_t packed2_group_bytes(size_t group) {
  const size_t times = group / kSmallGroup;
  return times * (kWholeLines * kPanel * kQuad + kLineBytes) + kPanel * sizeof(uint16_t);
}

void pack_weights2(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
                   const float* scale, float unit, uint8_t* out) {
  const size_t times = shape.group / kSmallGroup, whole = times * kWholeLines, fives = whole * kTrits;
  for (size_t first_n = 0; first_n < shape.n; first_n += kPanel) {
    for (size_t g = 0; g < shape.groups(); ++g) {
      const auto digit = [&](size_t quad, size_t j, size_t c) {
        const size_t k = g * shape.group + quad * kQuad + j, n = first_n + c;
        if (k >= shape.k || n >= shape.n) return 1u;
        return static_cast<unsigned>(w[static_cast<ptrdiff_t>(k) * stride_k + static_cast<ptrdiff_t>(n) * stride_n] +
                                     1);
      };
      for (size_t i = 0; i < whole; ++i) {
        for (size_t at = 0; at < kPanel * kQuad; ++at) {
          unsigned v = 0;
          for (size_t d = 0; d < kTrits; ++d) v += kPlace[d] * digit(i * kTrits + d, at % kQuad, at / kQuad);
          *out++ = fraction(v);
        }
      }
      for (size_t i = 0; i < times; ++i) {
        for (size_t at = 0; at < kLineBytes; ++at) {
          unsigned v = 0;
          for (size_t d = 0; d + 1 < kTrits; ++d) {
            const size_t all = i * (kTrits - 1) + d, strip = all / times;
            v += kPlace[d] * digit(fives + all % times, at % kQuad, strip * kStrip + at / kQuad);
          }
          *out++ = fraction(v);
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
