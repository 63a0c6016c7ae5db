// Steps of integer products whose zero point is a tensor, and what they give, sum by sum.
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "gemm/pack.h"
#include "packed_groups.h"
#include "program_builder.h"
#include "reference.h"

namespace ek::test {

class IntegerProducts {
 public:
  explicit IntegerProducts(ProgramBuilder& program) : p_(program) {}

  /// Sums of rows of codes, less the zero point, by random weights.
  uint32_t gemm(uint32_t x, uint32_t zero, int64_t rows, int64_t columns) {
    const Product made(*this, x, zero, rows, columns);
    const uint32_t y = p_.tensor(DType::kI32, {rows, columns});
    p_.step(StepKind::kGemmInteger, {x, zero}, y, made.sizes()).blobs = {made.weights};
    for (size_t i = 0; i < made.sums.size(); ++i) put(y, i, made.sums[i]);
    return y;
  }

  /// The same times the scales that a tensor holds, with a bias and a clamp at zero.
  uint32_t scaled(uint32_t x, uint32_t zero, uint32_t scale, int64_t rows, int64_t columns) {
    const Product made(*this, x, zero, rows, columns);
    const uint32_t y = p_.tensor(DType::kF32, {rows, columns});
    const auto n = static_cast<size_t>(columns), scales = p_.expected[scale].size() / sizeof(float);
    std::vector<float> bias(round_up(n, kStrip));
    for (float& b : bias) b = uniform(-1.0f, 1.0f);
    Arguments arguments = made.sizes();
    arguments.insert(
        arguments.end(),
        {{"activation", 0}, {"addend_first", 0}, {"lo", 0.0f}, {"hi", std::numeric_limits<float>::infinity()}});
    p_.step(StepKind::kGemmScaled, {x, zero, scale}, y, arguments).blobs = {
        made.weights, p_.blob(bias.data(), bias.size() * sizeof(float))};
    for (size_t i = 0; i < made.sums.size(); ++i) {
      const float product = static_cast<float>(made.sums[i]) * get<float>(scale, scales == 1 ? 0 : i % n);
      put(y, i, clamp_real(product + bias[i % n], 0.0f, std::numeric_limits<float>::infinity()));
    }
    return y;
  }

  /// A 3 x 3 convolution of (1, H, W, C), padded by one; depthwise where there are as many groups as channels.
  uint32_t conv(uint32_t x, uint32_t zero, int64_t out_c, int64_t groups) {
    const auto s = p_.index.tensors[x].shape;
    ConvArgs args;
    Window& w = args.window;
    w.in_h = w.out_h = static_cast<size_t>(s[1]);
    w.in_w = w.out_w = static_cast<size_t>(s[2]);
    w.kernel_h = w.kernel_w = 3;
    w.pad_top = w.pad_left = 1;
    args.in_c = static_cast<size_t>(s[3]);
    args.out_c = static_cast<size_t>(out_c);
    args.groups = static_cast<size_t>(groups);
    args.x = p_.expected[x].data();
    args.x_q = {1.0f, zero_of(x, zero), quant_of(p_.index.tensors[x]).sign};
    const size_t group_in = args.in_c / args.groups, group_out = args.out_c / args.groups, taps = w.taps();
    const std::vector<int8_t> weights = random_weights(args.out_c * taps * group_in);
    const std::vector<int32_t> none(args.out_c);
    AlignedBuffer packed;
    if (groups == out_c && groups == s[3]) {
      packed = AlignedBuffer(depthwise_packed_bytes(args.out_c, taps));
      pack_depthwise(args.out_c, taps, weights.data(), static_cast<ptrdiff_t>(taps), 1, packed.data());
    } else {
      packed = pack_groups(weights.data(), args.groups, {group_out, taps, group_in});
    }
    const uint32_t y = p_.tensor(DType::kI32, {1, s[1], s[2], out_c});
    Arguments arguments = {{"batch", 1},    {"in_h", s[1]},        {"in_w", s[2]},          {"out_h", s[1]},
                           {"out_w", s[2]}, {"kernel_h", 3},       {"kernel_w", 3},         {"stride_h", 1},
                           {"stride_w", 1}, {"dilation_h", 1},     {"dilation_w", 1},       {"pad_top", 1},
                           {"pad_left", 1}, {"in_channels", s[3]}, {"out_channels", out_c}, {"groups", groups}};
    p_.step(StepKind::kConvInteger, {x, zero}, y, arguments).blobs = {p_.blob(packed.data(), packed.size())};
    for (size_t i = 0; i < p_.expected[y].size() / sizeof(int32_t); ++i) {
      put(y, i, conv_acc(args, weights, none, i / args.out_c, i % args.out_c));
    }
    return y;
  }

 private:
  /// Random weights for rows of codes, packed, and the sums.
  struct Product {
    Product(IntegerProducts& self, uint32_t x, uint32_t zero, int64_t its_rows, int64_t its_columns)
        : rows(its_rows), columns(its_columns) {
      const Bytes& codes = self.p_.expected[x];
      const auto n = static_cast<size_t>(columns);
      k = codes.size() / static_cast<size_t>(rows);
      const std::vector<int8_t> w = random_weights(n * k);
      const PackedShape shape{n, 1, k};
      size_t bytes = 0;
      if (!shape.bytes(&bytes)) std::abort();
      AlignedBuffer packed(bytes);
      pack_weights(shape, w.data(), static_cast<ptrdiff_t>(k), 0, 1, packed.data());
      weights = self.p_.blob(packed.data(), bytes);
      const Sign sign = quant_of(self.p_.index.tensors[x]).sign;
      const int32_t zero_point = self.zero_of(x, zero);
      for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
        for (size_t j = 0; j < n; ++j) {
          int32_t sum = 0;
          for (size_t i = 0; i < k; ++i) {
            sum = wrap_add(sum, int64_t{value(codes[row * k + i], sign) - zero_point} * w[j * k + i]);
          }
          sums.push_back(sum);
        }
      }
    }
    Arguments sizes() const { return {{"rows", rows}, {"k", static_cast<int64_t>(k)}, {"columns", columns}}; }

    int64_t rows, columns;
    size_t k = 0;
    uint32_t weights = 0;
    std::vector<int32_t> sums;
  };

  int32_t zero_of(uint32_t x, uint32_t zero) const {
    return value(p_.expected[zero][0], quant_of(p_.index.tensors[x]).sign);
  }
  template <typename T>
  T get(uint32_t id, size_t i) const {
    T v;
    std::memcpy(&v, p_.expected[id].data() + i * sizeof(T), sizeof(T));
    return v;
  }
  template <typename T>
  void put(uint32_t id, size_t i, T v) {
    std::memcpy(p_.expected[id].data() + i * sizeof(T), &v, sizeof(T));
  }

  ProgramBuilder& p_;
};

}  // namespace ek::test
