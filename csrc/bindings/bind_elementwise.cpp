// Quantise and dequantise for NumPy, per tensor or along one axis; dynamic quantise per row.
#include <cmath>
#include <limits>
#include <vector>

#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "elementwise/elementwise.h"

namespace ek {
namespace {

/// Per tensor it is one channel.
ChannelShape channels_of(const char* function, const py::array& x, const py::object& axis_arg, size_t num_scales) {
  const ChannelShape whole = {1, 1, usize(x.size())};
  if (axis_arg.is_none()) {
    if (num_scales != 1)
      fail(Code::kValue, std::string(function) + ": scale has " + std::to_string(num_scales) +
                             " values but axis is None; name the axis they belong to");
    return whole;
  }
  const py::ssize_t given = axis_arg.cast<py::ssize_t>(), axis = given < 0 ? given + x.ndim() : given;
  if (axis < 0 || axis >= x.ndim()) {
    fail(Code::kValue,
         std::string(function) + ": axis " + std::to_string(given) + " is outside shape " + shape_name(x));
  }
  ChannelShape s = {1, usize(x.shape(axis)), 1};
  for (py::ssize_t i = 0; i < axis; ++i) s.outer *= usize(x.shape(i));
  for (py::ssize_t i = axis + 1; i < x.ndim(); ++i) s.inner *= usize(x.shape(i));
  if (num_scales != s.channels) {
    fail(Code::kValue, std::string(function) + ": scale has " + std::to_string(num_scales) + " values but axis " +
                           std::to_string(given) + " has length " + std::to_string(s.channels));
  }
  return s.channels == 1 ? whole : s;
}

using Scales = py::array_t<float, py::array::c_style>;
using ZeroPoints = py::array_t<int32_t, py::array::c_style>;

std::vector<QuantParams> maps_of(const char* function, const Scales& scale, const ZeroPoints& zero_point, Sign sign) {
  const size_t n = usize(scale.size());
  if (usize(zero_point.size()) != n) {
    fail(Code::kValue, std::string(function) + ": zero_point has " + std::to_string(zero_point.size()) +
                           " values but scale has " + std::to_string(n));
  }
  const int32_t lo = sign == Sign::kU8 ? 0 : -128;
  std::vector<QuantParams> maps;
  for (size_t i = 0; i < n; ++i) {
    const float s = scale.data()[i];
    const int32_t z = zero_point.data()[i];
    if (!std::isfinite(s) || s <= 0) {
      fail(Code::kValue, std::string(function) + ": scale must be positive and finite, got " + std::to_string(s));
    }
    if (z < lo || z > lo + 255) {
      fail(Code::kValue, std::string(function) + ": zero_point must lie in [" + std::to_string(lo) + ", " +
                             std::to_string(lo + 255) + "], got " + std::to_string(z));
    }
    maps.push_back({s, z, sign});
  }
  return maps;
}

std::vector<py::ssize_t> shape_of(const py::array& x) { return {x.shape(), x.shape() + x.ndim()}; }

/// Tasks run side by side: one would write what another still reads.
void require_apart(const char* function, const py::array& x, const py::array& out) {
  if (!overlap(out.data(), usize(out.nbytes()), x.data(), usize(x.nbytes()))) return;
  fail(Code::kValue, std::string(function) + ": out overlaps x; pass an array of its own");
}

py::array quantize_linear(const py::array& x, const Scales& scale, const ZeroPoints& zero_point, const py::object& axis,
                          bool to_signed, const py::object& out, const std::string& isa, int threads) {
  constexpr const char* kName = "quantize_linear";
  if (!is_f32(x)) fail(Code::kType, "quantize_linear: x must be float32, got " + dtype_name(x));
  require_contiguous(kName, "x", x);
  require_aligned(kName, "x", x);
  const Runtime rt = make_runtime(isa, threads);
  const ChannelShape shape = channels_of(kName, x, axis, usize(scale.size()));
  const auto maps = maps_of(kName, scale, zero_point, to_signed ? Sign::kS8 : Sign::kU8);
  py::array y = to_signed ? out_or_new<int8_t>(kName, out, shape_of(x)) : out_or_new<uint8_t>(kName, out, shape_of(x));
  require_apart(kName, x, y);
  const float* from = static_cast<const float*>(x.data());
  uint8_t* to = static_cast<uint8_t*>(y.mutable_data());
  const WithoutGil released;
  const FpGuard guard;
  quantize_channels(rt, from, shape, maps.data(), to);
  return y;
}

py::array dequantize_linear(const py::array& x, const Scales& scale, const ZeroPoints& zero_point,
                            const py::object& axis, const py::object& out, const std::string& isa, int threads) {
  constexpr const char* kName = "dequantize_linear";
  const Sign sign = sign_of(kName, "x", x);
  require_contiguous(kName, "x", x);
  require_aligned(kName, "x", x);
  const Runtime rt = make_runtime(isa, threads);
  const ChannelShape shape = channels_of(kName, x, axis, usize(scale.size()));
  const auto maps = maps_of(kName, scale, zero_point, sign);
  py::array y = out_or_new<float>(kName, out, shape_of(x));
  require_apart(kName, x, y);
  const uint8_t* from = static_cast<const uint8_t*>(x.data());
  float* to = static_cast<float*>(y.mutable_data());
  const WithoutGil released;
  const FpGuard guard;
  dequantize_channels(rt, from, shape, maps.data(), to);
  return y;
}

py::tuple dynamic_quantize(const py::array& x, const std::string& isa, int threads) {
  constexpr const char* kName = "dynamic_quantize";
  if (!is_f32(x)) fail(Code::kType, "dynamic_quantize: x must be float32, got " + dtype_name(x));
  require_rank(kName, "x", x, 2);
  require_contiguous(kName, "x", x);
  require_aligned(kName, "x", x);
  const Runtime rt = make_runtime(isa, threads);
  py::array_t<int8_t> q(shape_of(x));
  py::array_t<float> scale(x.shape(0));
  const size_t rows = usize(x.shape(0)), cols = usize(x.shape(1));
  const float* from = static_cast<const float*>(x.data());
  uint8_t* to = reinterpret_cast<uint8_t*>(q.mutable_data());
  float* scales = scale.mutable_data();
  {
    const WithoutGil released;
    const FpGuard guard;
    dynamic_quantize_rows(rt, from, rows, cols, cols, Sign::kS8, to, cols, scales);
  }
  return py::make_tuple(q, scale);
}

}  // namespace

void bind_elementwise(py::module_& m) {
  m.def("quantize_linear", &quantize_linear, py::arg("x").noconvert(), py::arg("scale"), py::arg("zero_point"),
        py::arg("axis"), py::arg("to_signed"), py::arg("out"), py::arg("isa"), py::arg("num_threads"));
  m.def("dequantize_linear", &dequantize_linear, py::arg("x").noconvert(), py::arg("scale"), py::arg("zero_point"),
        py::arg("axis"), py::arg("out"), py::arg("isa"), py::arg("num_threads"));
  m.def("dynamic_quantize", &dynamic_quantize, py::arg("x").noconvert(), py::arg("isa"), py::arg("num_threads"));
}

}  // namespace ek
