#include "gemm/pack4.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "gemm/pack2.h"

namespace ek {
namespace {

constexpr size_t kLineBytes = kPanel * kOctet / 2;

size_t halves_bytes(const PackedShape4& shape) { return (shape.asymmetric ? 2 : 1) * kPanel * sizeof(uint16_t); }

/// 8 values of k from `first_k` on, 64 columns from `first_n` on; what lies outside is value 0.
void pack_octet(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n, size_t first_k,
                size_t first_n, uint8_t* out) {
  std::memset(out, 0x88, kLineBytes);
  const size_t depth = std::min(kOctet, shape.k - first_k), columns = std::min(kPanel, shape.n - first_n);
  for (size_t i = 0; i < depth; ++i) {
    const int8_t* row = w + static_cast<ptrdiff_t>(first_k + i) * stride_k + static_cast<ptrdiff_t>(first_n) * stride_n;
    uint8_t* bytes = out + i % 4;
    for (size_t c = 0; c < columns; ++c) {
      const unsigned code = static_cast<unsigned>(row[static_cast<ptrdiff_t>(c) * stride_n] + 8);
      uint8_t& byte = bytes[c * 4];
      byte = static_cast<uint8_t>(i < kOctet / 2 ? (byte & 0xF0u) | code : (byte & 0x0Fu) | code << 4);
    }
  }
}

}  // namespace

size_t PackedShape4::panels() const { return ceil_div(n, kPanel); }
size_t PackedShape4::groups() const { return k == 0 ? 0 : ceil_div(k, group); }
size_t PackedShape4::octets() const { return ternary ? groups() * (group / kOctet) : ceil_div(k, kOctet); }
size_t PackedShape4::panel_bytes() const {
  if (ternary) return groups() * packed2_group_bytes(group);
  return octets() * kLineBytes + groups() * halves_bytes(*this);
}

bool PackedShape4::bytes(size_t* out) const {
  size_t padded_k = 0, padded_n = 0, most = 0;
  // At most one byte and a half of anything for each padded value of k and n.
  return checked_add(k, kW4Run, &padded_k) && checked_add(n, kPanel - 1, &padded_n) &&
         checked_mul(padded_k, padded_n, &most) && checked_mul(most, 2, &most) &&
         checked_mul(panels(), panel_bytes(), out);
}

uint16_t to_half(float x) {
  const float magnitude = std::fabs(x);
  const int sign = std::signbit(x) ? 0x8000 : 0;
  // Steps of 2^-24 below 2^-14, else of 2^-10 of the power of two below: the step count is the encoding.
  const int exponent = magnitude < 0x1p-14f ? -14 : std::ilogb(magnitude);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return static_cast<uint16_t>(sign + ((exponent + 14) << 10) + steps);
}

float unit_of_scales(float largest) { return std::ldexp(1.0f, std::max(-126, std::ilogb(largest) - 14)); }

void pack_weights4(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
                   const float* scale, float unit, const float* zero_point, uint8_t* out) {
  const size_t groups = shape.groups();
  for (size_t first_n = 0; first_n < shape.n; first_n += kPanel) {
    const size_t columns = std::min(kPanel, shape.n - first_n);
    for (size_t g = 0; g < groups; ++g) {
      const size_t end = std::min(shape.k, (g + 1) * shape.group);
      for (size_t k = g * shape.group; k < end; k += kOctet, out += kLineBytes) {
        pack_octet(shape, w, stride_k, stride_n, k, first_n, out);
      }
      uint16_t halves[2 * kPanel] = {};
      for (size_t c = 0; c < columns; ++c) {
        const size_t at = g * shape.n + first_n + c;
        halves[c] = to_half(scale[at] / unit);
        if (shape.asymmetric) halves[kPanel + c] = to_half(-zero_point[at]);
      }
      std::memcpy(out, halves, halves_bytes(shape));
      out += halves_bytes(shape);
    }
  }
}

}  // namespace ek
