// What the bench measures the machine's limits with.
#include <chrono>
#include <memory>
#include <vector>

#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/gil.h"
#include "edgekern/edgekern.h"
#include "gemm/gemm.h"
#include "gemm/workspace.h"
#include "threads/pool.h"

namespace ek {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Best rate of several bursts of multiply-adds, in operations (2 each) per second over all threads.
double measure_peak(const Runtime& rt, uint64_t (*burst)(size_t), double seconds) {
  const WithoutGil released;
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto begin = std::chrono::steady_clock::now();
    std::vector<uint64_t> macs(static_cast<size_t>(rt.threads));
    parallel_for(macs.size(), rt.threads, [&](size_t task) { macs[task] = burst(200'000); });
    uint64_t total = 0;
    for (const uint64_t part : macs) total += part;
    best = std::max(best, 2.0 * static_cast<double>(total) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  return best;
}

double measure_dot_peak(const std::string& isa, int threads, double seconds) {
  const Runtime rt = make_runtime(isa, threads);
  return measure_peak(rt, rt.kernels->dot_burst, seconds);
}

double measure_fma_peak(const std::string& isa, int threads, double seconds) {
  const Runtime rt = make_runtime(isa, threads);
  return measure_peak(rt, rt.kernels->fma_burst, seconds);
}

/// Best rate of reading `x` once, in bytes per second over all threads: each reads its part in `streams` runs.
double measure_read_bandwidth(const py::array_t<uint8_t, py::array::c_style>& x, int threads, size_t streams,
                              size_t prefetch, double seconds) {
  const Runtime rt = make_runtime("", threads);
  const uint8_t* const data = x.data();
  const size_t parts = static_cast<size_t>(rt.threads), part = usize(x.nbytes()) / parts / 4096 * 4096;
  if (streams == 0 || part < streams * 4096) {
    fail(Code::kValue, "measure_read_bandwidth: x must hold 4096 bytes for each stream of each thread");
  }
  const WithoutGil released;
  std::vector<uint64_t> sums(parts);
  double best = 0;
  const auto start = std::chrono::steady_clock::now();
  do {
    const auto begin = std::chrono::steady_clock::now();
    parallel_for(parts, rt.threads,
                 [&](size_t t) { sums[t] = rt.kernels->read_stream(data + t * part, part, streams, prefetch); });
    best = std::max(best, static_cast<double>(part * parts) / seconds_since(begin));
  } while (seconds_since(start) < seconds);
  return best;
}

/// out = a * b with every block on the Cube path, or every block on the Vector path.
void gemm_on_unit(const py::array& a, const PackedWeights& b, const py::array& out, const std::string& unit,
                  const std::string& isa, int threads) {
  constexpr const char* kName = "gemm_on_unit";
  const Runtime rt = make_runtime(isa, threads);
  GemmArgs args;
  args.a_sign = sign_of(kName, "a", a);
  args.lda = row_bytes(kName, "a", a);
  args.m = usize(a.shape(0));
  args.a = static_cast<const uint8_t*>(a.data());
  args.b = b.view();
  require_inner(kName, "a", usize(a.shape(1)), "b", b.shape.k_per_tap);
  py::array c = out_or_new<int32_t>(kName, out, {a.shape(0), static_cast<py::ssize_t>(b.shape.n)});
  args.c = c.mutable_data();
  args.ldc = b.shape.n * sizeof(int32_t);
  if (unit != "cube" && unit != "vector") {
    fail(Code::kValue, "gemm_on_unit: unit must be 'cube' or 'vector', got '" + unit + "'");
  }
  args.unit = unit == "cube" ? Unit::kCube : Unit::kVector;
  const WithoutGil released;
  const Workspace work(*rt.kernels, &args, 0, nullptr);
  const FpGuard guard;
  gemm(rt, args);
}

/// c = a * b through the C table, `repeats` times over: what a caller in C gets. Packs b once.
void repeat_c_gemm(const py::array& a, const py::array_t<int8_t, py::array::c_style>& b, const py::array& out,
                   size_t repeats, int threads) {
  constexpr const char* kName = "repeat_c_gemm";
  require_rank(kName, "b", b, 2);
  const size_t k = usize(b.shape(0)), n = usize(b.shape(1));
  ek_gemm product{};
  product.a_type = sign_of(kName, "a", a) == Sign::kU8 ? EK_U8 : EK_S8;
  product.lda = row_bytes(kName, "a", a);
  require_inner(kName, "a", usize(a.shape(1)), "b", k);
  product.m = usize(a.shape(0));
  product.a = a.data();
  product.num_threads = threads;
  py::array c = out_or_new<int32_t>(kName, out, {a.shape(0), b.shape(1)});
  int32_t* const values = static_cast<int32_t*>(c.mutable_data());
  const ek_api* const api = edgekern_get_api(EDGEKERN_ABI_VERSION);
  const auto require_ok = [&](ek_status status) {
    if (status != EK_OK) fail(Code::kValue, std::string(kName) + ": " + api->error_message());
  };
  ek_packed* packed = nullptr;
  require_ok(api->pack_b(k, n, b.data(), static_cast<ptrdiff_t>(n), 1, &packed));
  const std::unique_ptr<ek_packed, void (*)(ek_packed*)> owner(packed, api->free_packed);
  product.b = packed;
  ek_status status = EK_OK;
  {
    const WithoutGil released;
    for (size_t i = 0; i < repeats && status == EK_OK; ++i)
      status = api->gemm_s32(&product, values, n * sizeof(int32_t));
  }
  require_ok(status);
}

}  // namespace

void bind_probes(py::module_& m) {
  m.def("measure_dot_peak", &measure_dot_peak, py::arg("isa") = "", py::arg("num_threads") = 1,
        py::arg("seconds") = 0.05);
  m.def("measure_fma_peak", &measure_fma_peak, py::arg("isa") = "", py::arg("num_threads") = 1,
        py::arg("seconds") = 0.05);
  m.def("measure_read_bandwidth", &measure_read_bandwidth, py::arg("x").noconvert(), py::arg("num_threads") = 1,
        py::arg("streams") = 1, py::arg("prefetch") = 0, py::arg("seconds") = 0.05);
  m.def("gemm_on_unit", &gemm_on_unit, py::arg("a"), py::arg("b"), py::arg("out"), py::arg("unit"), py::arg("isa") = "",
        py::arg("num_threads") = 1);
  m.def("repeat_c_gemm", &repeat_c_gemm, py::arg("a"), py::arg("b").noconvert(), py::arg("out"), py::arg("repeats") = 1,
        py::arg("num_threads") = 1);
}

}  // namespace ek
