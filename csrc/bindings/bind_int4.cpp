// pack_weights(bits=4) and (bits=2) for NumPy.
#include <cmath>

#include "base/fp_env.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/gil.h"
#include "gemm/pack2.h"

namespace ek {
namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;

/// Scales or zero points: one for every group and column.
Floats read_groups(const char* argument, const py::object& given, const PackedShape4& shape) {
  auto values = Floats::ensure(given);
  if (!values) {
    PyErr_Clear();
    fail(Code::kType, std::string("pack_weights: ") + argument + " must be an array of numbers");
  }
  if (values.ndim() != 2 || usize(values.shape(0)) != shape.groups() || usize(values.shape(1)) != shape.n) {
    fail(Code::kValue, std::string("pack_weights: ") + argument + " must have shape (" +
                           std::to_string(shape.groups()) + ", " + std::to_string(shape.n) + "), a row for every " +
                           std::to_string(shape.group) + " rows of w, got " + shape_name(values));
  }
  return values;
}

std::string place(const PackedShape4& shape, size_t i) {
  return "[" + std::to_string(i / shape.n) + ", " + std::to_string(i % shape.n) + "]";
}

/// The largest scale, all being positive and finite; 1 when there are none.
float largest_scale(const Floats& scale, const PackedShape4& shape) {
  float largest = 0;
  for (size_t i = 0; i < usize(scale.size()); ++i) {
    const float s = scale.data()[i];
    if (!std::isfinite(s) || s <= 0) {
      fail(Code::kValue,
           "pack_weights: scale must be positive and finite, got " + std::to_string(s) + " at " + place(shape, i));
    }
    largest = std::max(largest, s);
  }
  return largest > 0 ? largest : 1.0f;
}

void check_zero_points(const Floats& zero_point, const PackedShape4& shape) {
  constexpr float kMost = 2048;  // float16 holds the integers up to here
  for (size_t i = 0; i < usize(zero_point.size()); ++i) {
    const float z = zero_point.data()[i];
    if (!(std::fabs(z) <= kMost)) {
      fail(Code::kValue,
           "pack_weights: zero_point must lie in [-2048, 2048], got " + std::to_string(z) + " at " + place(shape, i));
    }
  }
}

void check_values(const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n, const PackedShape4& shape) {
  const int lo = shape.ternary ? -1 : -8, hi = shape.ternary ? 1 : 7;
  for (size_t k = 0; k < shape.k; ++k) {
    for (size_t n = 0; n < shape.n; ++n) {
      const int value = w[static_cast<ptrdiff_t>(k) * stride_k + static_cast<ptrdiff_t>(n) * stride_n];
      if (value >= lo && value <= hi) continue;
      const std::string rule = shape.ternary ? "be -1, 0 or 1 for bits=2" : "lie in [-8, 7] for bits=4";
      const std::string remedy = shape.ternary ? "" : "; subtract 8 from unsigned values and zero points";
      fail(Code::kValue, "pack_weights: w must " + rule + ", got " + std::to_string(value) + " at " +
                             place(shape, k * shape.n + n) + remedy);
    }
  }
}

PackedWeights pack_weights_groups(const py::array& w, const py::object& scale, const py::object& zero_point,
                                  size_t group_size, bool ternary) {
  constexpr const char* kName = "pack_weights";
  const FpGuard guard;
  require_rank(kName, "w", w, 2);
  if (!is_s8(w)) {
    const std::string rule = ternary ? "of -1, 0 and 1 for bits=2" : "with values in [-8, 7] for bits=4";
    fail(Code::kType, "pack_weights: w must be int8 " + rule + ", got " + dtype_name(w));
  }
  if ((group_size != 32 || ternary) && group_size != 64 && group_size != 128) {
    fail(Code::kValue, std::string("pack_weights: group_size must be ") + (ternary ? "" : "32, ") + "64 or 128, got " +
                           std::to_string(group_size));
  }
  const PackedShape4 shape{usize(w.shape(1)), usize(w.shape(0)), group_size, !zero_point.is_none(), ternary};
  size_t bytes = 0;
  if (!shape.bytes(&bytes)) fail(Code::kValue, "pack_weights: w is too large");
  const int8_t* const values = static_cast<const int8_t*>(w.data());
  check_values(values, w.strides(0), w.strides(1), shape);
  const Floats scales = read_groups("scale", scale, shape);
  Floats zero_points;
  if (shape.asymmetric) {
    zero_points = read_groups("zero_point", zero_point, shape);
    check_zero_points(zero_points, shape);
  }
  PackedWeights packed;
  packed.shape = {shape.n, 1, shape.k};
  packed.shape4 = shape;
  packed.unit = unit_of_scales(largest_scale(scales, shape));
  packed.data = new_buffer(kName, bytes);
  const float* const zero_data = shape.asymmetric ? zero_points.data() : nullptr;
  const float* const scale_data = scales.data();
  const ptrdiff_t stride_k = w.strides(0), stride_n = w.strides(1);
  {
    const WithoutGil released;
    if (ternary) {
      pack_weights2(shape, values, stride_k, stride_n, scale_data, packed.unit, packed.data.data());
    } else {
      pack_weights4(shape, values, stride_k, stride_n, scale_data, packed.unit, zero_data, packed.data.data());
    }
  }
  return packed;
}

}  // namespace

void bind_int4(py::module_& m) {
  m.def(
      "pack_weights_int4",
      [](const py::array& w, const py::object& scale, const py::object& zero_point, size_t group_size) {
        return pack_weights_groups(w, scale, zero_point, group_size, false);
      },
      py::arg("w").noconvert(), py::arg("scale"), py::arg("zero_point"), py::arg("group_size"));
  m.def(
      "pack_weights_int2",
      [](const py::array& w, const py::object& scale, size_t group_size) {
        return pack_weights_groups(w, scale, py::none(), group_size, true);
      },
      py::arg("w").noconvert(), py::arg("scale"), py::arg("group_size"));
}

}  // namespace ek
