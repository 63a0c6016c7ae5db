// matmul_integer and tile_plan for NumPy.
#include <pybind11/stl.h>

#include <vector>

#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/gil.h"
#include "gemm/gemm.h"
#include "gemm/workspace.h"
#include "threads/pool.h"

namespace ek {

/// A as rows of bytes: inner stride one, rows any non-negative distance apart.
size_t row_bytes(const char* function, const char* argument, const py::array& a) {
  require_rank(function, argument, a, 2);
  require_aligned(function, argument, a);
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

void check_zero_point(const char* function, const char* argument, Sign sign, int32_t z) {
  const int32_t lo = sign == Sign::kU8 ? 0 : -128;
  if (z >= lo && z <= lo + 255) return;
  fail(Code::kValue, std::string(function) + ": " + argument + " must lie in [" + std::to_string(lo) + ", " +
                         std::to_string(lo + 255) + "] for " + (sign == Sign::kU8 ? "uint8" : "int8") + ", got " +
                         std::to_string(z));
}

void run_gemm(const Runtime& rt, GemmArgs args, int32_t a_zero_point, const int32_t* bias) {
  const Workspace work(*rt.kernels, &args, a_zero_point, bias);
  const FpGuard guard;
  gemm(rt, args);
}

namespace {

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
  const auto array = py::array::ensure(given);
  const char kind = array ? array.dtype().kind() : 'O';
  if ((kind != 'i' && kind != 'u') || array.ndim() > 1 || (array.ndim() == 1 && usize(array.shape(0)) != n)) {
    PyErr_Clear();
    fail(Code::kValue,
         "matmul_integer: b_zero_point must be one integer or one per column (" + std::to_string(n) + ")");
  }
  using Wide = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;
  const auto values =
      Wide(kind == 'u' ? array.attr("clip")(0, 128).cast<py::array>() : array);  // all uint64 are int64 then
  std::vector<int32_t> zeros;
  for (const int64_t* z = values.data(); z != values.data() + values.size(); ++z) {
    if (*z < -128 || *z > 127) {
      fail(Code::kValue,
           "matmul_integer: b_zero_point must lie in [-128, 127], got " + (kind == 'u' ? "more" : std::to_string(*z)));
    }
    zeros.push_back(static_cast<int32_t>(*z));
  }
  return zeros;
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
    if (weights->bits() != 8) {
      fail(Code::kValue, "matmul_integer: b has " + std::to_string(weights->bits()) +
                             "-bit weights, whose groups have scales of their own; use linear");
    }
  } else if (py::isinstance<py::array>(b)) {
    const py::array array = py::reinterpret_borrow<py::array>(b);
    require_rank(kName, "b", array, 2);
    require_inner(kName, "a", k, "b", usize(array.shape(0)));
    packed_here = pack_weights_s8(kName, "b", array);
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
    const WithoutGil released;
    run_gemm(rt, args, a_zero_point, nullptr);
    if (shifted) subtract_weight_zero_points(args.a, lda, sign, a_zero_point, m, k, zw, n, c_values);
  }
  return c;
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
  constexpr size_t kMostBlocks = size_t{1} << 24;
  const size_t down = ceil_div(m, tile), across = ceil_div(n, tile);
  if (down != 0 && across > kMostBlocks / down) {
    fail(Code::kValue, "tile_plan: " + std::to_string(down) + " x " + std::to_string(across) +
                           " blocks are more than " + std::to_string(kMostBlocks) +
                           "; plan a part of the matrix, or with a larger tile");
  }
  for (const TileBlock& b : make_tile_plan(m, n, k, tile, *profile).blocks) {
    blocks.append(py::make_tuple(b.row0, b.row1, b.col0, b.col1, b.unit == Unit::kCube ? "cube" : "vector",
                                 b.padded_rows, b.padded_cols, b.cost_us));
  }
  return blocks;
}

}  // namespace

Runtime make_runtime(const std::string& isa, int threads) {
  Isa resolved = Isa::kScalar;
  throw_if_error(resolve_isa(isa, &resolved));
  if (threads <= 0) throw_if_error(told_num_threads(&threads));
  return {&kernels(resolved), threads};
}

void bind_gemm(py::module_& m) {
  m.def("matmul_integer", &matmul_integer, py::arg("a").noconvert(), py::arg("b"), py::arg("a_zero_point"),
        py::arg("b_zero_point"), py::arg("out"), py::arg("isa"), py::arg("num_threads"));
  m.def("tile_plan", &tile_plan, py::arg("m"), py::arg("n"), py::arg("k"), py::arg("tile"), py::arg("device"));
  m.def("device_names", &device_names);
}

}  // namespace ek
