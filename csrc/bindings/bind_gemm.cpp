// GEMM for NumPy: pack_weights, matmul_integer, linear, tile_plan, and the probes of the bench.
#include <pybind11/stl.h>

#include <chrono>
#include <cmath>
#include <optional>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "elementwise/elementwise.h"
#include "gemm/gemm.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTile = 256;

/// Weights of one matrix in the packed layout, with the scale of every column.
struct PackedWeights {
  PackedShape shape;
  AlignedBuffer data;
  std::vector<float> scale;  // [n padded], empty when none was given

  PackedView view() const { return {shape, data.data()}; }
};

PackedWeights pack(const char* function, const char* argument, const py::array& w) {
  require_rank(function, argument, w, 2);
  if (!is_s8(w)) {
    fail(Code::kType, std::string(function) + ": " + argument + " must be int8, got " + dtype_name(w) +
                          (is_f32(w) ? "; call quantize_linear first" : ""));
  }
  PackedWeights packed;
  packed.shape = {usize(w.shape(1)), 1, usize(w.shape(0))};
  size_t bytes = 0;
  if (!packed.shape.bytes(&bytes)) fail(Code::kValue, std::string(function) + ": " + argument + " is too large");
  packed.data = AlignedBuffer(bytes);
  const int8_t* from = static_cast<const int8_t*>(w.data());
  const ptrdiff_t stride_n = w.strides(1), stride_k = w.strides(0);
  py::gil_scoped_release release;
  pack_weights(packed.shape, from, stride_n, 0, stride_k, packed.data.data());
  return packed;
}

PackedWeights pack_weights_array(const py::array& w, const py::object& scale) {
  PackedWeights packed = pack("pack_weights", "w", w);
  if (scale.is_none()) return packed;
  const auto values = py::array_t<float, py::array::c_style | py::array::forcecast>::ensure(scale);
  if (!values) {
    PyErr_Clear();
    fail(Code::kType, "pack_weights: scale must be a number or an array of numbers");
  }
  const size_t n = packed.shape.n;
  if (values.ndim() > 1 || (values.ndim() == 1 && usize(values.shape(0)) != n)) {
    fail(Code::kValue, "pack_weights: scale must be one number or one per column (" + std::to_string(n) +
                           "), got shape " + shape_name(values));
  }
  packed.scale.assign(packed.shape.padded_n(), 0.0f);
  for (size_t i = 0; i < n; ++i) {
    const float s = values.data()[values.ndim() == 0 ? 0 : i];
    if (!std::isfinite(s) || s <= 0) {
      fail(Code::kValue, "pack_weights: scale must be positive and finite, got " + std::to_string(s) + " for column " +
                             std::to_string(i));
    }
    packed.scale[i] = s;
  }
  return packed;
}

/// A as rows of bytes: inner stride one, rows any non-negative distance apart.
size_t row_bytes(const char* function, const char* argument, const py::array& a) {
  require_rank(function, argument, a, 2);
  if (a.size() == 0) return usize(a.shape(1) * a.itemsize());  // NumPy leaves the strides of an empty array open
  const bool dense_rows = a.shape(1) <= 1 || a.strides(1) == a.itemsize();
  const bool forward = a.shape(0) <= 1 || a.strides(0) >= a.shape(1) * a.itemsize();
  if (!dense_rows || !forward) {
    fail(Code::kValue, std::string(function) + ": " + argument +
                           " must have contiguous rows; pass numpy.ascontiguousarray(" + argument + ")");
  }
  return a.shape(0) <= 1 ? usize(a.shape(1) * a.itemsize()) : usize(a.strides(0));
}

void require_inner(const char* function, const char* left, size_t k_left, const char* right, size_t k_right) {
  if (k_left == k_right) return;
  fail(Code::kValue, std::string(function) + ": " + right + " has " + std::to_string(k_right) + " rows but " + left +
                         " has " + std::to_string(k_left) + " columns; inner dimensions must match");
}

size_t span_bytes(size_t rows, size_t stride, size_t last) { return rows == 0 ? 0 : (rows - 1) * stride + last; }

/// C -= zw[n] * (rowsum(a)[m] - K * za): what a zero point of the weights adds (mod 2^32).
void subtract_weight_zero_points(const uint8_t* a, size_t lda, Sign sign, int32_t za, size_t m, size_t k,
                                 const std::vector<int32_t>& zw, size_t n, int32_t* c) {
  for (size_t row = 0; row < m; ++row) {
    uint32_t sum = 0;
    for (size_t i = 0; i < k; ++i) {
      const uint8_t byte = a[row * lda + i];
      sum += static_cast<uint32_t>(sign == Sign::kU8 ? int32_t{byte} : int32_t{static_cast<int8_t>(byte)});
    }
    sum -= static_cast<uint32_t>(k) * static_cast<uint32_t>(za);
    for (size_t col = 0; col < n; ++col) {
      const uint32_t old = static_cast<uint32_t>(c[row * n + col]);
      c[row * n + col] = static_cast<int32_t>(old - static_cast<uint32_t>(zw[zw.size() == 1 ? 0 : col]) * sum);
    }
  }
}

std::vector<int32_t> read_zero_points(const py::object& given, size_t n) {
  const auto values = py::array_t<int32_t, py::array::c_style | py::array::forcecast>::ensure(given);
  if (!values || values.ndim() > 1 || (values.ndim() == 1 && usize(values.shape(0)) != n)) {
    PyErr_Clear();
    fail(Code::kValue,
         "matmul_integer: b_zero_point must be one integer or one per column (" + std::to_string(n) + ")");
  }
  std::vector<int32_t> zeros(values.data(), values.data() + values.size());
  for (const int32_t z : zeros) {
    if (z < -128 || z > 127) {
      fail(Code::kValue, "matmul_integer: b_zero_point must lie in [-128, 127], got " + std::to_string(z));
    }
  }
  return zeros;
}

void check_zero_point(const char* function, const char* argument, Sign sign, int32_t z) {
  const int32_t lo = sign == Sign::kU8 ? 0 : -128;
  if (z >= lo && z <= lo + 255) return;
  fail(Code::kValue, std::string(function) + ": " + argument + " must lie in [" + std::to_string(lo) + ", " +
                         std::to_string(lo + 255) + "] for " + (sign == Sign::kU8 ? "uint8" : "int8") + ", got " +
                         std::to_string(z));
}

/// Runs the GEMM with buffers of its own. The caller has checked everything and released nothing yet.
void run_gemm(const Runtime& rt, GemmArgs args, int32_t a_zero_point, const int32_t* bias) {
  const PackedShape& shape = args.b.shape;
  std::vector<int32_t> init(shape.padded_n());
  make_init(*rt.kernels, args.a_sign, a_zero_point, args.b.colsum(), bias, shape.n, init.data());
  args.init = init.data();
  const AlignedBuffer scratch(gemm_scratch_bytes(*rt.kernels, args));
  const TilePlan plan = make_tile_plan(args.m, shape.n, shape.k_per_tap, kTile, *find_device("host"));
  const FpGuard guard;
  gemm(rt, args, plan, const_cast<uint8_t*>(scratch.data()));
}

py::array matmul_integer(const py::array& a, const py::object& b, int32_t a_zero_point, const py::object& b_zero_point,
                         const py::object& out, const std::string& isa, int threads) {
  constexpr const char* kName = "matmul_integer";
  const Runtime rt = make_runtime(isa, threads);
  const Sign sign = sign_of(kName, "a", a);
  const size_t lda = row_bytes(kName, "a", a), m = usize(a.shape(0)), k = usize(a.shape(1));
  check_zero_point(kName, "a_zero_point", sign, a_zero_point);

  PackedWeights packed_here;
  const PackedWeights* weights = nullptr;
  if (py::isinstance<PackedWeights>(b)) {
    weights = &b.cast<const PackedWeights&>();
  } else if (py::isinstance<py::array>(b)) {
    const py::array array = py::reinterpret_borrow<py::array>(b);
    require_rank(kName, "b", array, 2);
    require_inner(kName, "a", k, "b", usize(array.shape(0)));
    packed_here = pack(kName, "b", array);
    weights = &packed_here;
  } else {
    fail(Code::kType, "matmul_integer: b must be an int8 array or the result of pack_weights");
  }
  require_inner(kName, "a", k, "b", weights->shape.k_per_tap);
  const size_t n = weights->shape.n;
  const std::vector<int32_t> zw = read_zero_points(b_zero_point, n);
  bool shifted = false;
  for (const int32_t z : zw) shifted = shifted || z != 0;

  py::array c = out_or_new<int32_t>(kName, out, {a.shape(0), static_cast<py::ssize_t>(n)});
  if (overlap(c.data(), usize(c.nbytes()), a.data(), span_bytes(m, lda, k))) {
    fail(Code::kValue, "matmul_integer: out overlaps a; pass an array of its own");
  }
  GemmArgs args;
  args.m = m;
  args.a = static_cast<const uint8_t*>(a.data());
  args.lda = lda;
  args.a_sign = sign;
  args.b = weights->view();
  args.c = c.mutable_data();
  args.ldc = n * sizeof(int32_t);
  int32_t* const c_values = static_cast<int32_t*>(args.c);
  {
    py::gil_scoped_release release;
    run_gemm(rt, args, a_zero_point, nullptr);
    if (shifted) subtract_weight_zero_points(args.a, lda, sign, a_zero_point, m, k, zw, n, c_values);
  }
  return c;
}

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

py::array linear(const py::array& x, const PackedWeights& w, const py::object& bias, const LinearOptions& o,
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
    AlignedBuffer rows;
    std::vector<float> row_scale;
    if (dynamic) {
      rows = AlignedBuffer(m * k);
      row_scale.resize(m);
      dynamic_quantize_rows(rt, static_cast<const float*>(x_data), m, k, ldx / sizeof(float), rows.data(),
                            row_scale.data());
      e.row_scale = row_scale.data();
      args.a = rows.data();
      args.lda = k;
    } else {
      args.a = static_cast<const uint8_t*>(x_data);
      args.lda = ldx;
    }
    run_gemm(rt, args, o.x_zero_point, bias_int.empty() ? nullptr : bias_int.data());
  }
  return y;
}

py::list tile_plan(size_t m, size_t n, size_t k, size_t tile, const std::string& device) {
  const DeviceProfile* profile = find_device(device);
  if (profile == nullptr) {
    std::string known;
    for (const std::string& name : device_names()) known += (known.empty() ? "" : ", ") + name;
    fail(Code::kValue, "tile_plan: unknown device '" + device + "'; known are " + known);
  }
  if (tile == 0 || tile % kPanel != 0) {
    fail(Code::kValue,
         "tile_plan: tile must be a positive multiple of " + std::to_string(kPanel) + ", got " + std::to_string(tile));
  }
  py::list blocks;
  for (const TileBlock& b : make_tile_plan(m, n, k, tile, *profile).blocks) {
    blocks.append(py::make_tuple(b.row0, b.row1, b.col0, b.col1, b.unit == Unit::kCube ? "cube" : "vector",
                                 b.padded_rows, b.padded_cols, b.cost_us));
  }
  return blocks;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Best rate of several bursts, in int8 operations (2 per multiply-add) per second over all threads.
double measure_dot_peak(const std::string& isa, int threads, double seconds) {
  const Runtime rt = make_runtime(isa, threads);
  py::gil_scoped_release release;
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<uint64_t> macs(static_cast<size_t>(rt.threads));
    parallel_for(macs.size(), rt.threads, [&](size_t task) { macs[task] = rt.kernels->dot_burst(200'000); });
    uint64_t total = 0;
    for (const uint64_t part : macs) total += part;
    best = std::max(best, 2.0 * static_cast<double>(total) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  return best;
}

/// Best rate of reading `bytes` of memory once, in bytes per second over all threads.
double measure_read_bandwidth(size_t bytes, int threads, double seconds) {
  const Runtime rt = make_runtime("", threads);
  py::gil_scoped_release release;
  const size_t parts = static_cast<size_t>(rt.threads), part = bytes / parts / 4096 * 4096;
  const AlignedBuffer buffer(bytes);
  std::vector<uint64_t> sums(parts);
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto begin = std::chrono::steady_clock::now();
    parallel_for(parts, rt.threads,
                 [&](size_t t) { sums[t] = rt.kernels->read_stream(buffer.data() + t * part, part); });
    best = std::max(best, static_cast<double>(part * parts) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  return best;
}

}  // namespace

Runtime make_runtime(const std::string& isa, int threads) {
  Isa resolved = Isa::kScalar;
  throw_if_error(resolve_isa(isa, &resolved));
  return {&kernels(resolved), threads > 0 ? threads : num_threads()};
}

void bind_gemm(py::module_& m) {
  py::class_<PackedWeights>(m, "PackedWeights", plain_type(),
                            "int8 weights (K, N) in the packed layout; made by pack_weights.")
      .def_property_readonly("shape",
                             [](const PackedWeights& w) { return py::make_tuple(w.shape.k_per_tap, w.shape.n); })
      .def_property_readonly("nbytes", [](const PackedWeights& w) { return w.data.size(); })
      .def_property_readonly("has_scale", [](const PackedWeights& w) { return !w.scale.empty(); })
      .def("__repr__", [](const PackedWeights& w) {
        return "PackedWeights(shape=(" + std::to_string(w.shape.k_per_tap) + ", " + std::to_string(w.shape.n) +
               "), nbytes=" + std::to_string(w.data.size()) + ", has_scale=" + (w.scale.empty() ? "False" : "True") +
               ")";
      });
  m.def("pack_weights", &pack_weights_array, py::arg("w").noconvert(), py::arg("scale"));
  m.def("matmul_integer", &matmul_integer, py::arg("a").noconvert(), py::arg("b"), py::arg("a_zero_point"),
        py::arg("b_zero_point"), py::arg("out"), py::arg("isa"), py::arg("num_threads"));
  m.def(
      "linear",
      [](const py::array& x, const PackedWeights& w, const py::object& bias, float lo, float hi,
         std::optional<float> x_scale, int32_t x_zero_point, std::optional<float> y_scale, int32_t y_zero_point,
         bool y_signed, const py::object& out, const std::string& isa, int threads) {
        return linear(x, w, bias, {lo, hi, x_scale, y_scale, x_zero_point, y_zero_point, y_signed}, out, isa, threads);
      },
      py::arg("x").noconvert(), py::arg("w"), py::arg("bias"), py::arg("lo"), py::arg("hi"), py::arg("x_scale"),
      py::arg("x_zero_point"), py::arg("y_scale"), py::arg("y_zero_point"), py::arg("y_signed"), py::arg("out"),
      py::arg("isa"), py::arg("num_threads"));
  m.def("tile_plan", &tile_plan, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("tile"), py::arg("device"));
  m.def("device_names", &device_names);
  m.def("measure_dot_peak", &measure_dot_peak, py::arg("isa") = "", py::arg("num_threads") = 1,
        py::arg("seconds") = 0.05);
  m.def("measure_read_bandwidth", &measure_read_bandwidth, py::arg("nbytes"), py::arg("num_threads") = 1,
        py::arg("seconds") = 0.2);
}

}  // namespace ek
