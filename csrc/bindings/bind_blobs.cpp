// Weights as the bytes that programs store.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/checked.h"
#include "base/fp_env.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "gemm/gemm_f32.h"
#include "gemm/pack.h"
#include "gemm/pack4.h"

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

void require_floats(const char* function, const py::array& w, py::ssize_t rank) {
  require_rank(function, "w", w, rank);
  if (!is_f32(w)) fail(Code::kType, std::string(function) + ": w must be float32, got " + dtype_name(w));
  require_aligned(function, "w", w);
}

ptrdiff_t float_step(const py::array& w, int axis) { return w.strides(axis) / static_cast<ptrdiff_t>(sizeof(float)); }

py::bytes pack_f32_blob(const py::array& w) {
  require_floats("pack_f32_blob", w, 3);
  const size_t groups = usize(w.shape(0)), n = usize(w.shape(1)), k = usize(w.shape(2));
  size_t floats = 0, total = 0;
  if (!f32_packed_floats(k, n, &floats) || !checked_mul(floats, groups * sizeof(float), &total)) {
    fail(Code::kValue, "pack_f32_blob: w is too large");
  }
  const float* from = static_cast<const float*>(w.data());
  const ptrdiff_t group = float_step(w, 0), stride_n = float_step(w, 1), stride_k = float_step(w, 2);
  const Runtime rt = make_runtime("", 1);
  return packed_bytes("pack_f32_blob", total, [&](uint8_t* out) {
    for (size_t g = 0; g < groups; ++g) {
      pack_f32(rt, k, n, from + static_cast<ptrdiff_t>(g) * group, stride_k, stride_n,
               reinterpret_cast<float*>(out) + g * floats);
    }
  });
}

py::bytes pack_depthwise_f32_blob(const py::array& w) {
  require_floats("pack_depthwise_f32_blob", w, 2);
  const size_t channels = usize(w.shape(0)), taps = usize(w.shape(1)), padded = round_up(channels, kStrip);
  size_t floats = 0, total = 0;
  if (!f32_packed_floats(taps, channels, &floats) || !checked_mul(floats, sizeof(float), &total)) {
    fail(Code::kValue, "pack_depthwise_f32_blob: w is too large");
  }
  const float* from = static_cast<const float*>(w.data());
  const ptrdiff_t by_channel = float_step(w, 0), by_tap = float_step(w, 1);
  return packed_bytes("pack_depthwise_f32_blob", total, [&](uint8_t* out) {
    float* const to = reinterpret_cast<float*>(out);
    for (size_t c = 0; c < channels; ++c) {
      for (size_t t = 0; t < taps; ++t) {
        to[t * padded + c] = from[static_cast<ptrdiff_t>(c) * by_channel + static_cast<ptrdiff_t>(t) * by_tap];
      }
    }
  });
}

/// w (k, n) of [-8, 7] with scale and zero_point (groups, n): the bytes, and the unit of their scales.
py::tuple pack_weights4_blob(const py::array& w, const py::array& scale, const py::object& zero_point, size_t group) {
  constexpr const char* kName = "pack_weights4_blob";
  require_weights(kName, w, 2);
  const PackedShape4 shape{usize(w.shape(1)), usize(w.shape(0)), group, !zero_point.is_none()};
  size_t bytes = 0;
  if ((group != 32 && group != 64 && group != 128) || !shape.bytes(&bytes)) {
    fail(Code::kValue, "pack_weights4_blob: group must be 32, 64 or 128, and w not too large");
  }
  const auto of_groups = [&](const py::array& given) {
    require_floats(kName, given, 2);
    if (usize(given.shape(0)) != shape.groups() || usize(given.shape(1)) != shape.n ||
        (given.flags() & py::array::c_style) == 0) {
      fail(Code::kValue, "pack_weights4_blob: scale and zero_point must be dense, (groups, n)");
    }
    return static_cast<const float*>(given.data());
  };
  const float* const scales = of_groups(scale);
  const float* const zeros = shape.asymmetric ? of_groups(zero_point.cast<py::array>()) : nullptr;
  float largest = 0;
  for (size_t i = 0; i < shape.groups() * shape.n; ++i) largest = std::max(largest, std::fabs(scales[i]));
  const float unit = unit_of_scales(std::isnormal(largest) ? largest : 1.0f);
  const int8_t* const from = static_cast<const int8_t*>(w.data());
  const ptrdiff_t stride_k = w.strides(0), stride_n = w.strides(1);
  return py::make_tuple(packed_bytes(kName, bytes,
                                     [&](uint8_t* out) {
                                       const FpGuard guard;
                                       pack_weights4(shape, from, stride_k, stride_n, scales, unit, zeros, out);
                                     }),
                        unit);
}

}  // namespace

void bind_blobs(py::module_& m) {
  m.def("pack_weights_blob", &pack_weights_blob, py::arg("w").noconvert());
  m.def("pack_depthwise_blob", &pack_depthwise_blob, py::arg("w").noconvert());
  m.def("pack_f32_blob", &pack_f32_blob, py::arg("w").noconvert());
  m.def("pack_weights4_blob", &pack_weights4_blob, py::arg("w").noconvert(), py::arg("scale").noconvert(),
        py::arg("zero_point"), py::arg("group"));
  m.def("pack_depthwise_f32_blob", &pack_depthwise_f32_blob, py::arg("w").noconvert());
}

}  // namespace ek
