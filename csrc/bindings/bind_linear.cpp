// linear for NumPy: quantize rows, multiply, scale, add, activate.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "gemm/linear.h"

namespace ek {
namespace {

/// What linear() is asked for beyond its operands.
struct LinearOptions {
  float lo, hi;  // activation, as a clamp of the real value
  std::optional<float> x_scale, y_scale;
  int32_t x_zero_point, y_zero_point;
  bool y_signed;
};

std::vector<float> read_bias(const py::object& bias, size_t n, size_t padded) {
  std::vector<float> values;
  if (bias.is_none()) return values;
  if (!py::isinstance<py::array>(bias) || !is_f32(py::reinterpret_borrow<py::array>(bias))) {
    fail(Code::kType, "linear: bias must be a float32 array");
  }
  const py::array array = py::reinterpret_borrow<py::array>(bias);
  if (array.ndim() != 1 || usize(array.shape(0)) != n) {
    fail(Code::kValue, "linear: bias must have shape (" + std::to_string(n) + ",), got " + shape_name(array));
  }
  require_contiguous("linear", "bias", array);
  const float* from = static_cast<const float*>(array.data());
  values.assign(padded, 0.0f);
  for (size_t i = 0; i < n; ++i) values[i] = from[i];
  return values;
}

float relative(float real, float scale, int32_t lo, int32_t hi, int32_t zero_point) {
  const float low = static_cast<float>(lo - zero_point), high = static_cast<float>(hi - zero_point);
  const float q = std::isinf(real) ? real : std::nearbyint(real / scale);
  return std::min(std::max(q, low), high);
}

py::array linear_array(const py::array& x, const PackedWeights& w, const py::object& bias, const LinearOptions& o,
                       const py::object& out, const std::string& isa, int threads) {
  constexpr const char* kName = "linear";
  const Runtime rt = make_runtime(isa, threads);
  const FpGuard guard;
  const bool dynamic = is_f32(x);
  if (!dynamic && !is_u8(x) && !is_s8(x))
    fail(Code::kType, "linear: x must be float32, uint8 or int8, got " + dtype_name(x));
  if (w.scale.empty()) fail(Code::kValue, "linear: w has no scale; pack it with pack_weights(w, scale=...)");
  const size_t ldx = row_bytes(kName, "x", x), m = usize(x.shape(0)), k = usize(x.shape(1)), n = w.shape.n;
  require_inner(kName, "x", k, "w", w.shape.k_per_tap);
  if (dynamic && o.x_scale) fail(Code::kValue, "linear: x_scale is for 8-bit x; float32 x is quantized row by row");
  if (!dynamic && !o.x_scale) fail(Code::kValue, "linear: x is 8-bit, so x_scale must be given");
  if (dynamic && o.y_scale) fail(Code::kValue, "linear: y_scale needs 8-bit x with x_scale; float32 x gives float32");
  for (const auto& scale : {o.x_scale, o.y_scale}) {
    if (scale && !(std::isfinite(*scale) && *scale > 0))
      fail(Code::kValue, "linear: scales must be positive and finite");
  }
  const Sign sign = dynamic || is_s8(x) ? Sign::kS8 : Sign::kU8;
  if (!dynamic) check_zero_point(kName, "x_zero_point", sign, o.x_zero_point);
  // The accumulator goes on to float, so it must not wrap: |a - za| <= 255 and |w| <= 128. Half of int32 is the bias's.
  constexpr size_t kMaxDepth = (size_t{1} << 30) / (255 * 128);
  if (k > kMaxDepth) {
    fail(Code::kValue, "linear: x has " + std::to_string(k) + " columns; more than " + std::to_string(kMaxDepth) +
                           " could pass 2^31 in the accumulator; use matmul_integer or split K");
  }
  const std::vector<float> bias_values = read_bias(bias, n, w.shape.padded_n());
  std::vector<float> multiplier = w.scale;
  std::vector<int32_t> bias_int;
  const Sign y_sign = o.y_signed ? Sign::kS8 : Sign::kU8;
  const std::vector<py::ssize_t> shape = {x.shape(0), static_cast<py::ssize_t>(n)};

  GemmArgs args;
  args.m = m;
  args.a_sign = sign;
  args.b = w.view();
  Epilogue& e = args.epilogue;
  e.multiplier = multiplier.data();
  if (!dynamic) {
    for (size_t i = 0; i < n; ++i) {
      const double product = double{*o.x_scale} * w.scale[i];
      multiplier[i] = static_cast<float>(o.y_scale ? product / *o.y_scale : product);
    }
  }
  py::array y;
  if (o.y_scale) {
    check_zero_point(kName, "y_zero_point", y_sign, o.y_zero_point);
    y = o.y_signed ? out_or_new<int8_t>(kName, out, shape) : out_or_new<uint8_t>(kName, out, shape);
    const int32_t lo = o.y_signed ? -128 : 0;
    e.kind = OutKind::kQuantized;
    e.out = {*o.y_scale, o.y_zero_point, y_sign};
    e.lo = relative(o.lo, *o.y_scale, lo, lo + 255, o.y_zero_point);
    e.hi = relative(o.hi, *o.y_scale, lo, lo + 255, o.y_zero_point);
    args.ldc = n;
    if (!bias_values.empty()) {
      bias_int.assign(w.shape.padded_n(), 0);
      for (size_t i = 0; i < n; ++i) {
        const double b = std::nearbyint(bias_values[i] / (double{*o.x_scale} * w.scale[i]));
        if (!(std::fabs(b) < double{1 << 30})) {
          fail(Code::kValue, "linear: bias[" + std::to_string(i) + "] is " + std::to_string(bias_values[i]) +
                                 ", too large for an int32 accumulator at scale x_scale * w_scale");
        }
        bias_int[i] = static_cast<int32_t>(b);
      }
    }
  } else {
    y = out_or_new<float>(kName, out, shape);
    e.kind = OutKind::kFloat32;
    e.lo = o.lo;
    e.hi = o.hi;
    e.bias = bias_values.empty() ? nullptr : bias_values.data();
    args.ldc = n * sizeof(float);
  }
  if (overlap(y.data(), usize(y.nbytes()), x.data(), span_bytes(m, ldx, k * usize(x.itemsize())))) {
    fail(Code::kValue, "linear: out overlaps x; pass an array of its own");
  }
  args.c = y.mutable_data();
  const void* x_data = x.data();
  {
    py::gil_scoped_release release;
    if (dynamic) {
      thread_local Scratch scratch;
      LinearArgs rows{static_cast<const float*>(x_data), ldx / sizeof(float), args};
      const size_t init_bytes = w.shape.padded_n() * sizeof(int32_t);
      uint8_t* const room = scratch.take(init_bytes + linear_scratch_bytes(rt, rows));
      int32_t* const init = reinterpret_cast<int32_t*>(room);
      make_symmetric_init(*rt.kernels, rows.gemm.b, init);
      rows.gemm.init = init;
      linear(rt, rows, room + init_bytes);
    } else {
      args.a = static_cast<const uint8_t*>(x_data);
      args.lda = ldx;
      run_gemm(rt, args, o.x_zero_point, bias_int.empty() ? nullptr : bias_int.data());
    }
  }
  return y;
}

}  // namespace

void bind_linear(py::module_& m) {
  m.def(
      "linear",
      [](const py::array& x, const PackedWeights& w, const py::object& bias, float lo, float hi,
         std::optional<float> x_scale, int32_t x_zero_point, std::optional<float> y_scale, int32_t y_zero_point,
         bool y_signed, const py::object& out, const std::string& isa, int threads) {
        return linear_array(x, w, bias, {lo, hi, x_scale, y_scale, x_zero_point, y_zero_point, y_signed}, out, isa,
                            threads);
      },
      py::arg("x").noconvert(), py::arg("w"), py::arg("bias"), py::arg("lo"), py::arg("hi"), py::arg("x_scale"),
      py::arg("x_zero_point"), py::arg("y_scale"), py::arg("y_zero_point"), py::arg("y_signed"), py::arg("out"),
      py::arg("isa"), py::arg("num_threads"));
}

}  // namespace ek
