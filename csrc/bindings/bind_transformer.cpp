// A transformer's operators on plain arrays, as ONNX defines them: Attention, RotaryEmbedding, RMSNormalization. Python
// (transformer.py) brings arguments into the shapes below.
#include <pybind11/stl.h>

#include <algorithm>
#include <vector>

#include "base/checked.h"
#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "kvcache/dense.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kRowsPerTask = 16;

py::array attention(const py::array& q, const py::array& k, const py::array& v, const py::object& bias,
                    const std::vector<int64_t>& first, const std::vector<int64_t>& length, int64_t left, int64_t right,
                    float scale, float softcap, int threads, const std::string& isa) {
  constexpr const char* kName = "attention";
  for (const py::array* a : {&q, &k, &v}) require_rank(kName, a == &q ? "q" : a == &k ? "k" : "v", *a, 4);
  DenseAttention a{};
  a.batch = usize(q.shape(0)), a.heads = usize(q.shape(1)), a.queries = usize(q.shape(2));
  a.head_dim = usize(q.shape(3));
  a.kv_heads = usize(k.shape(1)), a.keys = usize(k.shape(2)), a.v_dim = usize(v.shape(3));
  if (a.kv_heads == 0 || a.heads % a.kv_heads != 0) {
    fail(Code::kValue, "attention: the heads of q must be a multiple of those of k, got " + std::to_string(a.heads) +
                           " and " + std::to_string(a.kv_heads));
  }
  for (const size_t dim : {a.head_dim, a.v_dim}) {
    if (dim == 0 || dim > kMaxHeadDim) {
      fail(Code::kValue, "attention: the last axis must have 1 to " + std::to_string(kMaxHeadDim) + " values, got " +
                             std::to_string(dim));
    }
  }
  a.q = floats(kName, "q", q, {a.batch, a.heads, a.queries, a.head_dim});
  a.k = floats(kName, "k", k, {a.batch, a.kv_heads, a.keys, a.head_dim});
  a.v = floats(kName, "v", v, {a.batch, a.kv_heads, a.keys, a.v_dim});
  a.scale = scale, a.softcap = softcap, a.left = left, a.right = right;
  a.first = first.data(), a.length = length.data();
  if (first.size() != a.batch || length.size() != a.batch) fail(Code::kValue, "attention: a number for each batch");
  for (const int64_t n : length) {
    if (n < 0 || n > static_cast<int64_t>(a.keys)) {
      fail(Code::kValue, "attention: kv_lengths must be 0 to " + std::to_string(a.keys) + ", got " + std::to_string(n));
    }
  }
  py::array added;
  if (!bias.is_none()) {
    added = bias.cast<py::array>();
    require_rank(kName, "mask", added, 4);
    const size_t size[3] = {a.batch, a.heads, a.queries};
    std::vector<size_t> shape{1, 1, 1, a.keys};
    for (size_t i = 0; i < 3; ++i) {
      if (added.shape(static_cast<py::ssize_t>(i)) != 1) shape[i] = size[i];
    }
    a.bias = floats(kName, "mask", added, shape);
    a.bias_query = shape[2] > 1 ? a.keys : 0;
    a.bias_head = shape[1] > 1 ? shape[2] * a.keys : 0;
    a.bias_batch = shape[0] > 1 ? shape[1] * shape[2] * a.keys : 0;
  }
  py::array out = new_array(kName, py::dtype::of<float>(), {q.shape(0), q.shape(1), q.shape(2), v.shape(3)});
  float* const to = static_cast<float*>(out.mutable_data());
  const Runtime rt = make_runtime(isa, threads);
  Status status;
  {
    const WithoutGil released;
    status = attend_dense(rt, a, to);
  }
  throw_if_error(status);
  return out;
}

/// x (batch, heads, tokens, dim), the first values of each row turned by cosines and sines (batch, tokens, half).
py::array rotary(const py::array& x, const py::array& cosines, const py::array& sines, int threads,
                 const std::string& isa) {
  constexpr const char* kName = "rotary_embedding";
  require_rank(kName, "x", x, 4);
  require_rank(kName, "cosines", cosines, 3);
  const size_t batch = usize(x.shape(0)), heads = usize(x.shape(1)), tokens = usize(x.shape(2));
  const size_t dim = usize(x.shape(3)), half = usize(cosines.shape(2));
  const float* const from = floats(kName, "x", x, {batch, heads, tokens, dim});
  const float* const c = floats(kName, "cosines", cosines, {batch, tokens, half});
  const float* const s = floats(kName, "sines", sines, {batch, tokens, half});
  if (2 * half > dim) {
    fail(Code::kValue, "rotary_embedding: " + std::to_string(half) + " cosines turn " + std::to_string(2 * half) +
                           " values, but x has " + std::to_string(dim));
  }
  py::array out = new_array(kName, py::dtype::of<float>(), {x.shape(0), x.shape(1), x.shape(2), x.shape(3)});
  float* const to = static_cast<float*>(out.mutable_data());
  const Runtime rt = make_runtime(isa, threads);
  const WithoutGil released;
  parallel_for(batch * heads, rt.threads, [&](size_t task) {
    const FpGuard guard;
    for (size_t token = 0; token < tokens; ++token) {
      const size_t at = (task * tokens + token) * dim, angle = (task / heads * tokens + token) * half;
      rt.kernels->rotate_row(from + at, c + angle, s + angle, half, to + at);
      std::copy(from + at + 2 * half, from + at + dim, to + at + 2 * half);
    }
  });
  return out;
}

py::array rms_norm(const py::array& x, const py::array& gain, float eps, int threads, const std::string& isa) {
  constexpr const char* kName = "rms_norm";
  require_rank(kName, "x", x, 2);
  const size_t rows = usize(x.shape(0)), n = usize(x.shape(1));
  const float *const from = floats(kName, "x", x, {rows, n}), *const by = floats(kName, "weight", gain, {n});
  py::array out = new_array(kName, py::dtype::of<float>(), {x.shape(0), x.shape(1)});
  float* const to = static_cast<float*>(out.mutable_data());
  const Runtime rt = make_runtime(isa, threads);
  const WithoutGil released;
  parallel_for(ceil_div(rows, kRowsPerTask), rt.threads, [&](size_t task) {
    const FpGuard guard;
    const size_t first = task * kRowsPerTask, count = std::min(kRowsPerTask, rows - first);
    rt.kernels->normalize_rows(from + first * n, count, n, {eps, false, by, nullptr}, to + first * n);
  });
  return out;
}

}  // namespace

void bind_transformer(py::module_& m) {
  m.def("attention", &attention, py::arg("q").noconvert(), py::arg("k").noconvert(), py::arg("v").noconvert(),
        py::arg("bias"), py::arg("first"), py::arg("length"), py::arg("left"), py::arg("right"), py::arg("scale"),
        py::arg("softcap"), py::arg("num_threads"), py::arg("isa"));
  m.def("rotary", &rotary, py::arg("x").noconvert(), py::arg("cosines").noconvert(), py::arg("sines").noconvert(),
        py::arg("num_threads"), py::arg("isa"));
  m.def("rms_norm", &rms_norm, py::arg("x").noconvert(), py::arg("gain").noconvert(), py::arg("eps"),
        py::arg("num_threads"), py::arg("isa"));
}

}  // namespace ek
