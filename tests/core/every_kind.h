// A program of every kind of step, and the same in parts, for tests whose time grows with the square of a program's
// length.
#pragma once

#include <vector>

#include "float_steps.h"
#include "small_moves.h"
#include "small_products_f32.h"
#include "small_products_integer.h"
#include "small_program.h"
#include "small_wide.h"

namespace ek::test {

using Outputs = std::vector<uint32_t>;

inline Outputs add_eight_bits(SmallProgram& p) {
  const uint32_t image = p.input({1, 3, 11, 9});
  const uint32_t x = p.quantize_nchw(image, 0.016f, 131, DType::kU8);
  const uint32_t stem = p.conv(x, {21, 3, 2, 1});
  const uint32_t depthwise = p.conv(stem, {21, 3, 1, 1, 21, true, -1, DType::kS8, true});
  const uint32_t pointwise = p.conv(depthwise, {21, 1, 1, 0, 1, false, stem});
  const uint32_t grouped = p.conv(pointwise, {12, 3, 1, 1, 3, false, -1, DType::kU8, true});
  const uint32_t wide = p.conv(pointwise, {70, 1, 1, 0});
  const uint32_t joined = p.concat(grouped, wide);
  const uint32_t largest = p.pool(joined, false, 2, 2);
  const uint32_t sliced = p.slice(largest);
  const uint32_t padded = p.pad(sliced, 7);
  const uint32_t table = p.lookup(padded);
  const uint32_t sum =
      p.add(p.softmax(padded, 1.0f / 256, 0, DType::kU8), p.softmax(table, 1.0f / 127, -5, DType::kS8));
  const uint32_t mean = p.pool(sum, true, 2, 1);
  const uint32_t planes = p.transpose(mean);
  const uint32_t flat = p.view(planes, {1, static_cast<int64_t>(p.expected[planes].size())});
  const uint32_t logits = p.gemm(flat, 1, {10, 1, 1, 0, 1, false, -1, DType::kF32});
  const uint32_t counts = p.gemm(flat, 1, {19, 1, 1, 0, 1, false, -1, DType::kI32, true});
  const uint32_t again = p.gemm(p.quantize(logits), 1, {33, 1, 1, 0, 1, false, -1, DType::kS8});
  const uint32_t both = p.matmul(again, p.gemm(flat, 1, {60, 1, 1, 0, 1, false, -1, DType::kS8}), 11, 20);
  const uint32_t picture = p.dequantize(sum, true), list = p.dequantize(again, false);
  const uint32_t anchors = p.constant({3, 5}), kept = p.quantize(p.constant({1, 33}));
  return {logits, counts, both, picture, list, anchors, kept};
}

inline Outputs add_integer_products(SmallProgram& p) {
  IntegerProducts integers(p);
  const uint32_t x = p.quantize(p.input({1, 6, 5, 21}));
  const uint32_t zero = p.quantize(p.constant({1})), factors = p.constant({1, 18});
  return {integers.conv(x, zero, 10, 1), integers.conv(x, zero, 21, 21), integers.gemm(x, zero, 5, 19),
          integers.scaled(x, zero, factors, 30, 18)};
}

inline Outputs add_wide_products(SmallProgram& p) {
  WideProducts wides(p);
  const uint32_t layers = p.input({1, 7, 6, 18});
  return {wides.gemm(layers, 12, 21), wides.conv(layers, 10, 2, false), wides.conv(layers, 18, 18, true)};
}

inline Outputs add_float_products(SmallProgram& p) {
  FloatProducts floats(p);
  const uint32_t volume = p.input({1, 2, 7, 6, 5});
  FloatConv conv;
  conv.out_c = 18;
  conv.kernel = {2, 3, 3};
  conv.pad = {0, 1, 1};
  conv.out = {1, 7, 6};
  const uint32_t deep = floats.conv(volume, conv);
  conv.depthwise = true;
  conv.kernel = {1, 3, 3};
  conv.addend = deep;
  const uint32_t wise = floats.conv(deep, conv);
  conv = {};
  conv.transposed = true;
  conv.out_c = 6;
  conv.groups = 2;
  conv.kernel = {1, 3, 2};
  conv.stride = {1, 2, 2};
  conv.pad = {0, 1, 0};
  conv.out = {1, 13, 12};
  const uint32_t larger = floats.conv(wise, conv);
  conv = {};
  conv.out_c = 21;
  conv.dtype = DType::kU8;
  FloatConv many;
  many.out_c = 150;
  const uint32_t pairs = p.view(deep, {2, 21, 18});
  return {floats.gemm(larger, 12, conv),
          floats.gemm_dynamic(larger, 12, conv, false),
          floats.gemm_dynamic(larger, 12, conv, true),
          floats.matmul(pairs, pairs),
          floats.attention(p.view(wise, {42, 18})),
          floats.gemm_groups(larger, 12, conv, 32, false),
          floats.gemm_groups(p.input({1, 150}), 1, many, 128, true),
          floats.gemm_groups(larger, 12, conv, 64, true, true)};
}

inline Outputs add_other_floats(SmallProgram& p) { return add_float_steps(p); }

inline Outputs add_moves(SmallProgram& p) { return moves_of(p, p.input({1, 3, 11, 9})); }

inline constexpr Outputs (*kParts[])(SmallProgram&) = {
    add_eight_bits, add_integer_products, add_wide_products, add_float_products, add_other_floats, add_moves,
};

/// Every kind of step once or more, on shapes that leave tails everywhere.
inline SmallProgram every_kind() {
  SmallProgram p;
  Outputs outputs;
  for (const auto add : kParts) {
    for (const uint32_t id : add(p)) outputs.push_back(id);
  }
  p.finish(outputs);
  return p;
}

inline std::vector<SmallProgram> every_kind_in_parts() {
  std::vector<SmallProgram> parts;
  for (const auto add : kParts) {
    SmallProgram p;
    p.finish(add(p));
    parts.push_back(std::move(p));
  }
  return parts;
}

}  // namespace ek::test
