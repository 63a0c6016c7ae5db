// Weights as the bytes that programs store.
#include <cstring>
#include <string>

#include "base/checked.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "gemm/pack.h"

namespace ek {
namespace {

/// A Python bytes object of `size`, rounded up to 64: zeros, then filled in place by `fill(data)` without the GIL.
template <typename Fill>
py::bytes packed_bytes(const char* function, size_t size, Fill&& fill) {
  const size_t rounded = round_up(size, 64);
  require_memory_for(function, rounded);
  auto packed = py::reinterpret_steal<py::bytes>(PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(rounded)));
  if (!packed) throw py::error_already_set();
  auto* data = reinterpret_cast<uint8_t*>(PyBytes_AS_STRING(packed.ptr()));
  {
    const WithoutGil released;
    std::memset(data, 0, rounded);
    fill(data);
  }
  return packed;
}

void require_weights(const char* function, const py::array& w, py::ssize_t rank) {
  require_rank(function, "w", w, rank);
  if (!is_s8(w)) fail(Code::kType, std::string(function) + ": w must be int8, got " + dtype_name(w));
}

py::bytes pack_weights_blob(const py::array& w) {
  require_weights("pack_weights_blob", w, 4);
  const size_t groups = usize(w.shape(0));
  const PackedShape shape{usize(w.shape(1)), usize(w.shape(2)), usize(w.shape(3))};
  size_t bytes = 0, total = 0;
  if (!shape.bytes(&bytes) || !checked_mul(round_up(bytes, 64), groups, &total)) {
    fail(Code::kValue, "pack_weights_blob: w is too large");
  }
  const int8_t* from = static_cast<const int8_t*>(w.data());
  const ptrdiff_t stride[4] = {w.strides(0), w.strides(1), w.strides(2), w.strides(3)};
  return packed_bytes("pack_weights_blob", total, [&](uint8_t* out) {
    for (size_t g = 0; g < groups; ++g) {
      pack_weights(shape, from + static_cast<ptrdiff_t>(g) * stride[0], stride[1], stride[2], stride[3],
                   out + g * round_up(bytes, 64));
    }
  });
}

py::bytes pack_depthwise_blob(const py::array& w) {
  require_weights("pack_depthwise_blob", w, 2);
  const size_t channels = usize(w.shape(0)), taps = usize(w.shape(1));
  const int8_t* from = static_cast<const int8_t*>(w.data());
  const ptrdiff_t stride_channel = w.strides(0), stride_tap = w.strides(1);
  return packed_bytes("pack_depthwise_blob", depthwise_packed_bytes(channels, taps),
                      [&](uint8_t* out) { pack_depthwise(channels, taps, from, stride_channel, stride_tap, out); });
}

}  // namespace

void bind_blobs(py::module_& m) {
  m.def("pack_weights_blob", &pack_weights_blob, py::arg("w").noconvert());
  m.def("pack_depthwise_blob", &pack_depthwise_blob, py::arg("w").noconvert());
}

}  // namespace ek
