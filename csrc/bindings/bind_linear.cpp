// linear for NumPy: quantize rows, multiply, scale, add, activate.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "gemm/gemm4.h"
#include "gemm/linear.h"

namespace ek {
namespace {

constexpr const char* kName = "linear";

/// What linear() is asked for beyond its operands.
struct LinearOptions {
  Activation activation;
  float lo, hi;  // of kClamp
  std::optional<float> x_scale, y_scale;
  int32_t x_zero_point, y_zero_point;
  OutKind kind;  // kQuantized stands for either 8-bit kind
  Sign y_sign;
  bool scale_per_row;  // of a float32 x on 4-bit weights, whose groups have scales of their own otherwise
};

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
  return static_cast<const float*>(array.data());
}

/// Sets the epilogue's addend to a float32 array of the result's shape.
void read_residual(const py::object& residual, const std::vector<py::ssize_t>& shape, const py::array& y, Epilogue* e) {
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
  e->addend = static_cast<const float*>(array.data());
  e->addend_ld = ld / sizeof(float);
}

/// Where a real bound lies on the scale of an 8-bit result, counted from its zero point.
float relative(float real, const QuantParams& q) {
  const int32_t lo = q.sign == Sign::kU8 ? 0 : -128;
  const float low = static_cast<float>(lo - q.zero_point), high = low + 255.0f;
  return std::min(std::max(std::isinf(real) ? real : std::nearbyint(real / q.scale), low), high);
}

void check_options(const py::array& x, const PackedWeights& w, const LinearOptions& o) {
  const bool dynamic = is_f32(x);
  if (!dynamic && !is_u8(x) && !is_s8(x))
    fail(Code::kType, "linear: x must be float32, uint8 or int8, got " + dtype_name(x));
  if (w.bits() == 4 && !dynamic) fail(Code::kType, "linear: x must be float32 for 4-bit weights, got " + dtype_name(x));
  if (w.bits() == 8 && w.scale.empty())
    fail(Code::kValue, "linear: w has no scale; pack it with pack_weights(w, scale=...)");
  if (dynamic && o.x_scale) fail(Code::kValue, "linear: x_scale is for 8-bit x; float32 x is quantized row by row");
  if (!dynamic && !o.x_scale) fail(Code::kValue, "linear: x is 8-bit, so x_scale must be given");
  if (dynamic && o.y_scale) fail(Code::kValue, "linear: y_scale needs 8-bit x with x_scale; float32 x gives float32");
  for (const auto& scale : {o.x_scale, o.y_scale}) {
    if (scale && !(std::isfinite(*scale) && *scale > 0))
      fail(Code::kValue, "linear: scales must be positive and finite");
  }
  if (!dynamic) check_zero_point(kName, "x_zero_point", sign_of(kName, "x", x), o.x_zero_point);
  if (o.y_scale) check_zero_point(kName, "y_zero_point", o.y_sign, o.y_zero_point);
  if (o.activation == Activation::kSwiglu && w.shape.n % 2 != 0) {
    fail(Code::kValue, "linear: swiglu pairs the columns of w, which has " + std::to_string(w.shape.n) +
                           "; interleave gate and up with interleave_gate_up");
  }
  // The accumulator goes on to float, so it must not wrap: |a - za| <= 255 and |w| <= 128. Half of int32 is the bias's.
  constexpr size_t kMaxDepth = (size_t{1} << 30) / (255 * 128);
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

/// The bias as the accumulator counts, or nullptr.
const int32_t* integer_bias(const float* bias, const PackedWeights& w, float x_scale, int32_t* values) {
  if (bias == nullptr) return nullptr;
  for (size_t i = 0; i < w.shape.n; ++i) {
    const double b = std::nearbyint(bias[i] / (double{x_scale} * w.scale[i]));
    if (!(std::fabs(b) < double{1 << 30})) {
      fail(Code::kValue, "linear: bias[" + std::to_string(i) + "] is " + std::to_string(bias[i]) +
                             ", too large for an int32 accumulator at scale x_scale * w_scale");
    }
    values[i] = static_cast<int32_t>(b);
  }
  return values;
}

size_t column_bytes(const PackedShape& shape) { return round_up(shape.padded_n() * sizeof(float), 64); }

void run_dynamic(const Runtime& rt, LinearArgs args) {
  const size_t init_bytes = column_bytes(args.gemm.b.shape);
  ThreadRoom room(init_bytes + linear_scratch_bytes(rt, args));
  int32_t* const init = reinterpret_cast<int32_t*>(room.data());
  make_symmetric_init(*rt.kernels, args.gemm.b, init);
  args.gemm.init = init;
  py::gil_scoped_release release;
  linear(rt, args, room.data() + init_bytes);
}

void run_int4(const Runtime& rt, const LinearArgs& args, const PackedWeights& w, bool scale_per_row) {
  const GemmArgs& g = args.gemm;
  const Gemm4Args args4{g.m, args.x, args.ldx,  scale_per_row, {w.shape4, w.data.data(), w.unit},
                        g.c, g.ldc,  g.epilogue};
  size_t bytes = 0;
  if (!gemm4_scratch_bytes(args4, &bytes)) fail(Code::kValue, "linear: x is too large");
  ThreadRoom room(bytes);
  py::gil_scoped_release release;
  gemm4(rt, args4, room.data());
}

void run_static(const Runtime& rt, GemmArgs args, const PackedWeights& w, const LinearOptions& o) {
  const size_t bytes = column_bytes(w.shape);
  ThreadRoom room(2 * bytes);
  float* const multiplier = reinterpret_cast<float*>(room.data());
  const bool requantized = args.epilogue.kind == OutKind::kQuantized;
  for (size_t i = 0; i < w.shape.padded_n(); ++i) {
    const double product = double{*o.x_scale} * w.scale[i];
    multiplier[i] = static_cast<float>(requantized ? product / *o.y_scale : product);
  }
  int32_t* const counts = reinterpret_cast<int32_t*>(room.data() + bytes);
  const int32_t* bias = requantized ? integer_bias(args.epilogue.bias, w, *o.x_scale, counts) : nullptr;
  args.epilogue.multiplier = multiplier;
  py::gil_scoped_release release;
  run_gemm(rt, args, o.x_zero_point, bias);
}

py::array linear_array(const py::array& x, const PackedWeights& w, const py::object& bias, const py::object& residual,
                       const LinearOptions& o, const py::object& out, const std::string& isa, int threads) {
  const Runtime rt = make_runtime(isa, threads);
  const FpGuard guard;
  const size_t ldx = row_bytes(kName, "x", x), m = usize(x.shape(0)), k = usize(x.shape(1));
  require_inner(kName, "x", k, "w", w.shape.k_per_tap);
  check_options(x, w, o);
  GemmArgs args;
  args.m = m;
  if (w.bits() == 8) args.b = w.view();
  Epilogue& e = args.epilogue;
  e.kind = o.kind;
  e.activation = o.activation;
  e.lo = o.lo;
  e.hi = o.hi;
  e.multiplier = w.scale.data();
  e.bias = bias_of(bias, w.shape.n);
  const std::vector<py::ssize_t> shape = {x.shape(0), static_cast<py::ssize_t>(out_columns(e, w.shape.n))};
  py::array y = result_array(out, o, shape);
  if (overlap(y.data(), usize(y.nbytes()), x.data(), span_bytes(m, ldx, k * usize(x.itemsize())))) {
    fail(Code::kValue, "linear: out overlaps x; pass an array of its own");
  }
  if (e.bias != nullptr && overlap(y.data(), usize(y.nbytes()), e.bias, w.shape.n * sizeof(float))) {
    fail(Code::kValue, "linear: out overlaps bias; pass an array of its own");
  }
  read_residual(residual, shape, y, &e);
  args.c = y.mutable_data();
  args.ldc = out_bytes(e, w.shape.n);
  if (o.kind == OutKind::kQuantized) {
    e.out = {*o.y_scale, o.y_zero_point, o.y_sign};
    if (e.activation != Activation::kClamp || e.addend != nullptr) {
      e.kind = OutKind::kRealQuantized;
    } else {
      e.lo = relative(o.lo, e.out);
      e.hi = relative(o.hi, e.out);
    }
  }
  const void* const data = x.data();
  const LinearArgs dynamic{static_cast<const float*>(data), ldx / sizeof(float), args};
  if (w.bits() == 4) {
    run_int4(rt, dynamic, w, o.scale_per_row);
  } else if (is_f32(x)) {
    run_dynamic(rt, dynamic);
  } else {
    args.a = static_cast<const uint8_t*>(data);
    args.lda = ldx;
    args.a_sign = sign_of(kName, "x", x);
    run_static(rt, args, w, o);
  }
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
