// pack_weights: int8 weights in the packed layout, once for many multiplications; and what pickle keeps of them.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "base/buffer.h"
#include "bindings/bindings.h"
#include "bindings/gemm_operands.h"
#include "bindings/gil.h"
#include "gemm/pack2.h"

namespace ek {

PackedWeights pack_weights_s8(const char* function, const char* argument, const py::array& w) {
  require_rank(function, argument, w, 2);
  if (!is_s8(w)) {
    fail(Code::kType, std::string(function) + ": " + argument + " must be int8, got " + dtype_name(w) +
                          (is_f32(w) ? "; call quantize_linear(..., dtype=numpy.int8) first" : ""));
  }
  PackedWeights packed;
  packed.shape = {usize(w.shape(1)), 1, usize(w.shape(0))};
  size_t bytes = 0;
  if (!packed.shape.bytes(&bytes)) fail(Code::kValue, std::string(function) + ": " + argument + " is too large");
  packed.data = new_buffer(function, bytes);
  const int8_t* from = static_cast<const int8_t*>(w.data());
  const ptrdiff_t stride_n = w.strides(1), stride_k = w.strides(0);
  const WithoutGil released;
  pack_weights(packed.shape, from, stride_n, 0, stride_k, packed.data.data());
  return packed;
}

namespace {

void check_scale(float scale, size_t column) {
  if (std::isfinite(scale) && scale > 0) return;
  fail(Code::kValue, "pack_weights: scale must be positive and finite, got " + std::to_string(scale) + " for column " +
                         std::to_string(column));
}

PackedWeights pack_weights_array(const py::array& w, const py::object& scale) {
  PackedWeights packed = pack_weights_s8("pack_weights", "w", w);
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
    packed.scale[i] = values.data()[values.ndim() == 0 ? 0 : i];
    check_scale(packed.scale[i], i);
  }
  return packed;
}

/// A view of numbers that `owner` keeps, read-only.
template <typename T>
py::array view_of(const T* values, size_t n, const py::object& owner) {
  const py::array view(py::dtype::of<T>(), {n}, values, owner);
  view.attr("setflags")(py::arg("write") = false);
  return view;
}

/// What pickles call the map of groups: they knew it as whether there are zero points.
enum Map : int { kSymmetric, kAsymmetric, kTernary };
int map_of(const PackedShape4& shape) { return shape.ternary ? kTernary : shape.asymmetric ? kAsymmetric : kSymmetric; }

/// The arguments of restore_packed.
py::tuple packed_state(const py::object& packed) {
  const PackedWeights& w = packed.cast<const PackedWeights&>();
  return py::make_tuple(kPackedLayout, w.shape.k_per_tap, w.shape.n, w.shape4.group, map_of(w.shape4), w.unit,
                        view_of(w.bytes(), w.size(), packed), view_of(w.scale.data(), w.scale.size(), packed));
}

/// Weights of this kind without their panels, or nothing where `data` and `scale` are not what such weights need.
std::optional<PackedWeights> shaped(size_t k, size_t n, size_t group, int map, float unit, const py::array& data,
                                    const py::array& scale) {
  PackedWeights packed;
  packed.shape = {n, 1, k};
  packed.shape4 = {group == 0 ? 0 : n, group == 0 ? 0 : k, group, map == kAsymmetric, map == kTernary};
  packed.unit = unit;
  size_t bytes = 0;
  const bool grouped = (group == 32 && map != kTernary) || group == 64 || group == 128;
  const bool fits = group == 0 ? packed.shape.bytes(&bytes) : grouped && packed.shape4.bytes(&bytes);
  const size_t scales = usize(scale.size());
  const bool whole = fits && is_u8(data) && usize(data.size()) == bytes && is_f32(scale) &&
                     (scales == 0 || (group == 0 && scales == packed.shape.padded_n()));
  if (!whole) return {};
  require_contiguous("PackedWeights", "data", data);
  require_contiguous("PackedWeights", "scale", scale);
  packed.scale.resize(scales);
  if (scales != 0) std::memcpy(packed.scale.data(), scale.data(), scales * sizeof(float));
  for (size_t i = 0; i < std::min(n, scales); ++i) check_scale(packed.scale[i], i);
  return packed;
}

PackedWeights restore_packed(uint32_t layout, size_t k, size_t n, size_t group, int map, float unit,
                             const py::array& data, const py::array& scale) {
  if (layout != kPackedLayout) {
    fail(Code::kValue, "PackedWeights: these were pickled in layout version " + std::to_string(layout) +
                           " and this edgekern reads " + std::to_string(kPackedLayout) + "; pack the weights again");
  }
  std::optional<PackedWeights> packed = shaped(k, n, group, map, unit, data, scale);
  if (!packed) fail(Code::kValue, "PackedWeights: what was pickled is damaged; pickle them again");
  packed->data = new_buffer("PackedWeights", usize(data.size()));
  if (data.size() != 0) std::memcpy(packed->data.data(), data.data(), usize(data.size()));
  return std::move(*packed);
}

/// Whether all scales and offsets of panels by groups are finite.
bool finite_halves(const PackedShape4& shape, const uint8_t* at) {
  const size_t halves = (shape.asymmetric ? 2 : 1) * kPanel;
  bool finite = true;
  for (size_t panel = 0; panel < shape.panels(); ++panel) {
    for (size_t k = 0; k < shape.k; k += shape.group) {
      at += shape.ternary ? packed2_group_bytes(shape.group) - halves * sizeof(uint16_t)
                          : ceil_div(std::min(shape.group, shape.k - k), kOctet) * (kPanel * kOctet / 2);
      for (size_t i = 0; i < halves; ++i, at += 2) finite = finite && (at[1] & 0x7C) != 0x7C;
    }
  }
  return finite;
}

/// Like restore_packed of this layout, but the panels stay where they are, as long as the weights live. `scanned` reads
/// them all, to refuse scales that are no numbers.
PackedWeights map_packed(size_t k, size_t n, size_t group, int map, float unit, const py::array& data,
                         const py::array& scale, bool scanned) {
  std::optional<PackedWeights> packed = shaped(k, n, group, map, unit, data, scale);
  if (!packed || !std::isfinite(unit) || !(unit > 0) || (group == 0 && scale.size() == 0)) {
    fail(Code::kValue, "PackedWeights: the panels or scales are not what such weights need");
  }
  if (reinterpret_cast<uintptr_t>(data.data()) % AlignedBuffer::kAlignment != 0) {
    fail(Code::kValue, "PackedWeights: panels must start at a multiple of 64");
  }
  packed->mapped = data;
  packed->mapped_bytes = static_cast<const uint8_t*>(data.data());
  packed->mapped_size = usize(data.size());
  bool finite = true;
  if (group != 0 && scanned) {
    const WithoutGil released;
    finite = finite_halves(packed->shape4, packed->bytes());
  }
  if (!finite) fail(Code::kValue, "PackedWeights: scales must be finite");
  return std::move(*packed);
}

}  // namespace

void bind_pack(py::module_& m) {
  py::class_<PackedWeights> packed(m, "PackedWeights", plain_type(),
                                   "Weights (K, N) of 8, 4 or 2 bits in a packed layout; made by pack_weights.");
  made_by_core(packed);
  packed
      .def_property_readonly("shape",
                             [](const PackedWeights& w) { return py::make_tuple(w.shape.k_per_tap, w.shape.n); })
      .def_property_readonly("nbytes", [](const PackedWeights& w) { return w.size(); })
      .def_property_readonly("has_scale", [](const PackedWeights& w) { return w.grouped() || !w.scale.empty(); })
      .def_property_readonly("bits", &PackedWeights::bits)
      .def_property_readonly("group_size",
                             [](const PackedWeights& w) -> py::object {
                               return w.grouped() ? py::object(py::int_(w.shape4.group)) : py::none();
                             })
      .def("__copy__", [](const py::object& w) { return w; })
      .def(
          "__deepcopy__", [](const py::object& w, const py::object&) { return w; }, py::arg("memo"))
      .def("__repr__", [](const PackedWeights& w) {
        const std::string scales =
            w.grouped() ? "bits=" + std::to_string(w.bits()) + ", group_size=" + std::to_string(w.shape4.group)
                        : std::string("has_scale=") + (w.scale.empty() ? "False" : "True");
        return "PackedWeights(shape=(" + std::to_string(w.shape.k_per_tap) + ", " + std::to_string(w.shape.n) +
               "), nbytes=" + std::to_string(w.size()) + ", " + scales + ")";
      });
  m.def("pack_weights", &pack_weights_array, py::arg("w").noconvert(), py::arg("scale"));
  m.def("packed_state", &packed_state, py::arg("packed"));
  m.def("restore_packed", &restore_packed, py::arg("layout"), py::arg("k"), py::arg("n"), py::arg("group"),
        py::arg("map"), py::arg("unit"), py::arg("data").noconvert(), py::arg("scale").noconvert());
  m.attr("PACKED_LAYOUT") = kPackedLayout;
  m.def("map_packed", &map_packed, py::arg("k"), py::arg("n"), py::arg("group"), py::arg("map"), py::arg("unit"),
        py::arg("data").noconvert(), py::arg("scale").noconvert(), py::arg("scanned"));
}

}  // namespace ek
