// linear for NumPy: quantize rows, multiply, scale, add, activate.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/checked.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/linear_call.h"

namespace ek {
namespace {

constexpr const char* kName = "linear";

Activation activation_of(const std::string& name) {
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  if (name == "silu") return Activation::kSilu;
  if (name == "swiglu") return Activation::kSwiglu;
  return Activation::kClamp;
}

OutKind kind_of(const std::string& dtype) {
  if (dtype == "float16") return OutKind::kFloat16;
  if (dtype == "bfloat16") return OutKind::kBfloat16;
  return dtype == "float32" ? OutKind::kFloat32 : OutKind::kQuantized;
}

/// The bias of `n` columns, or nullptr.
const float* bias_of(const py::object& bias, size_t n) {
  if (bias.is_none()) return nullptr;
  if (!py::isinstance<py::array>(bias) || !is_f32(py::reinterpret_borrow<py::array>(bias))) {
    fail(Code::kType, "linear: bias must be a float32 array");
  }
  const py::array array = py::reinterpret_borrow<py::array>(bias);
  if (array.ndim() != 1 || usize(array.shape(0)) != n) {
    fail(Code::kValue, "linear: bias must have shape (" + std::to_string(n) + ",), got " + shape_name(array));
  }
  require_contiguous(kName, "bias", array);
  require_aligned(kName, "bias", array);
  return static_cast<const float*>(array.data());
}

/// Takes a float32 array of the result's shape.
void read_residual(const py::object& residual, const std::vector<py::ssize_t>& shape, const py::array& y,
                   LinearCall* call) {
  if (residual.is_none()) return;
  if (!py::isinstance<py::array>(residual)) fail(Code::kType, "linear: residual must be a float32 array");
  const py::array array = py::reinterpret_borrow<py::array>(residual);
  if (!is_f32(array)) fail(Code::kType, "linear: residual must be float32, got " + dtype_name(array));
  if (array.ndim() != 2 || array.shape(0) != shape[0] || array.shape(1) != shape[1]) {
    fail(Code::kValue, "linear: residual must have the result's shape (" + std::to_string(shape[0]) + ", " +
                           std::to_string(shape[1]) + "), got " + shape_name(array));
  }
  const size_t ld = row_bytes(kName, "residual", array), row = usize(array.shape(1)) * sizeof(float);
  // Every element is read before it is written, so a result may replace its residual, but not lie across it.
  const bool in_place = array.data() == y.data() && ld == row && y.itemsize() == array.itemsize();
  if (!in_place && overlap(y.data(), usize(y.nbytes()), array.data(), span_bytes(usize(shape[0]), ld, row))) {
    fail(Code::kValue, "linear: out overlaps residual; pass the residual itself or an array of its own");
  }
  call->residual = static_cast<const float*>(array.data());
  call->residual_ld = ld / sizeof(float);
}

void check_options(const py::array& x, const PackedWeights& w, const LinearOptions& o) {
  const bool dynamic = is_f32(x);
  if (!dynamic && !is_u8(x) && !is_s8(x))
    fail(Code::kType, "linear: x must be float32, uint8 or int8, got " + dtype_name(x));
  if (w.grouped() && !dynamic) {
    const std::string bits = std::to_string(w.bits());
    fail(Code::kType, "linear: x must be float32 for " + bits + "-bit weights, got " + dtype_name(x));
  }
  if (w.bits() == 8 && w.scale.empty())
    fail(Code::kValue, "linear: w has no scale; pack it with pack_weights(w, scale=...)");
  if (dynamic && o.x_scale) fail(Code::kValue, "linear: x_scale is for 8-bit x; float32 x is quantized row by row");
  if (!dynamic && !o.x_scale) fail(Code::kValue, "linear: x is 8-bit, so x_scale must be given");
  if (dynamic && o.y_scale) fail(Code::kValue, "linear: y_scale needs 8-bit x with x_scale; float32 x gives float32");
  for (const auto& scale : {o.x_scale, o.y_scale}) {
    if (scale && !(std::isfinite(*scale) && *scale > 0))
      fail(Code::kValue, "linear: scales must be positive and finite");
  }
  if (dynamic && o.x_zero_point != 0)
    fail(Code::kValue, "linear: x_zero_point is for 8-bit x; float32 x is quantized symmetrically");
  if (!o.y_scale && o.y_zero_point != 0)
    fail(Code::kValue, "linear: y_zero_point needs y_scale; without it the result is float");
  if (!dynamic) check_zero_point(kName, "x_zero_point", sign_of(kName, "x", x), o.x_zero_point);
  if (o.y_scale) check_zero_point(kName, "y_zero_point", o.y_sign, o.y_zero_point);
  if (o.activation == Activation::kSwiglu && w.shape.n % 2 != 0) {
    fail(Code::kValue, "linear: swiglu pairs the columns of w, which has " + std::to_string(w.shape.n) +
                           "; interleave gate and up with interleave_gate_up");
  }
  if (w.bits() == 8 && w.shape.k_per_tap > kMaxDepth) {
    fail(Code::kValue, "linear: x has " + std::to_string(w.shape.k_per_tap) + " columns; more than " +
                           std::to_string(kMaxDepth) +
                           " could pass 2^31 in the accumulator; use matmul_integer or split K");
  }
}

py::array result_array(const py::object& out, const LinearOptions& o, const std::vector<py::ssize_t>& shape) {
  switch (o.kind) {
    case OutKind::kFloat32:
      return out_or_new<float>(kName, out, shape);
    case OutKind::kQuantized:
      return o.y_sign == Sign::kS8 ? out_or_new<int8_t>(kName, out, shape) : out_or_new<uint8_t>(kName, out, shape);
    default:
      return out_or_new<uint16_t>(kName, out, shape);  // the caller knows which half precision its bits are
  }
}

py::array linear_array(const py::array& x, const PackedWeights& w, const py::object& bias, const py::object& residual,
                       const LinearOptions& o, const py::object& out, const std::string& isa, int threads) {
  LinearCall call;
  call.rt = make_runtime(isa, threads);
  call.ldx = row_bytes(kName, "x", x);
  call.m = usize(x.shape(0));
  const size_t k = usize(x.shape(1)), n = w.shape.n;
  require_inner(kName, "x", k, "w", w.shape.k_per_tap);
  check_options(x, w, o);
  call.w = &w;
  call.bias = bias_of(bias, n);
  const size_t columns = o.activation == Activation::kSwiglu ? n / 2 : n;
  const std::vector<py::ssize_t> shape = {x.shape(0), static_cast<py::ssize_t>(columns)};
  py::array y = result_array(out, o, shape);
  if (overlap(y.data(), usize(y.nbytes()), x.data(), span_bytes(call.m, call.ldx, k * usize(x.itemsize())))) {
    fail(Code::kValue, "linear: out overlaps x; pass an array of its own");
  }
  if (call.bias != nullptr && overlap(y.data(), usize(y.nbytes()), call.bias, n * sizeof(float))) {
    fail(Code::kValue, "linear: out overlaps bias; pass an array of its own");
  }
  read_residual(residual, shape, y, &call);
  call.y = y.mutable_data();
  call.x = x.data();
  if (!is_f32(x)) call.x_sign = sign_of(kName, "x", x);
  run_linear(call, o);
  return y;
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def(
      "linear",
      [](const py::array& x, const PackedWeights& w, const py::object& bias, const std::string& activation, float lo,
         float hi, const py::object& residual, std::optional<float> x_scale, int32_t x_zero_point,
         std::optional<float> y_scale, int32_t y_zero_point, const std::string& out_dtype, const py::object& out,
         const std::string& isa, int threads, bool scale_per_row) {
        const LinearOptions options = {activation_of(activation),
                                       lo,
                                       hi,
                                       x_scale,
                                       y_scale,
                                       x_zero_point,
                                       y_zero_point,
                                       kind_of(out_dtype),
                                       out_dtype == "int8" ? Sign::kS8 : Sign::kU8,
                                       scale_per_row};
        return linear_array(x, w, bias, residual, options, out, isa, threads);
      },
      py::arg("x").noconvert(), py::arg("w"), py::arg("bias"), py::arg("activation"), py::arg("lo"), py::arg("hi"),
      py::arg("residual"), py::arg("x_scale"), py::arg("x_zero_point"), py::arg("y_scale"), py::arg("y_zero_point"),
      py::arg("out_dtype"), py::arg("out"), py::arg("isa"), py::arg("num_threads"), py::arg("scale_per_row") = false);
}

}  // namespace ek
