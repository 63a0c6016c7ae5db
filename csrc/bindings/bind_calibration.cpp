// Histograms and threshold searches for Python. edgekern.calibration checks arguments and words the messages.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "base/fp_env.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "bindings/gil.h"
#include "calibration/entropy.h"
#include "calibration/error_search.h"
#include "calibration/histogram.h"
#include "threads/pool.h"
#include "threads/turn.h"

namespace ek {
namespace {

namespace py = pybind11;

using Counts = py::array_t<uint64_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;

Counts to_array(const std::vector<uint64_t>& counts) {
  return Counts(static_cast<py::ssize_t>(counts.size()), counts.data());
}

/// A histogram that several Python threads may touch: the GIL is released while values are counted. Methods throw
/// Refusal where another thread was counting into it when this process was forked.
class SharedHistogram {
  template <typename Body>
  auto alone(Body body) const {
    const Turn::Guard guard(turn_);
    torn_ = torn_ || guard.orphaned();
    if (torn_) {
      throw Refusal({Code::kForked,
                     "Histogram: another thread was counting into it when the process was forked, so its copy in this "
                     "process is half counted; make a new one here, or fork while no thread is inside"});
    }
    return body();
  }

  /// Both, in the order of their addresses, so that two threads cannot wait for each other.
  template <typename Body>
  auto with(const SharedHistogram& other, Body body) const {
    if (&other == this) return alone(body);
    const bool first = std::less<>()(this, &other);
    return (first ? *this : other).alone([&] { return (first ? other : *this).alone(body); });
  }

 public:
  /// Needs no GIL.
  void count(const float* x, size_t n) {
    const FpGuard guard;
    alone([&] { histogram_.update(x, n); });
  }

  void update(const Floats& x) {
    const float* data = x.data();
    const auto size = static_cast<size_t>(x.size());
    const WithoutGil released;
    count(data, size);
  }

  void merge(const SharedHistogram& other) {
    const WithoutGil released;
    with(other, [&] { histogram_.merge(other.histogram_); });
  }

  bool equals(const SharedHistogram& other) const {
    const WithoutGil released;
    return with(other, [&] { return histogram_ == other.histogram_; });
  }

  /// So that what is called next does not throw.
  void require_whole() const {
    alone([] {});
  }

  /// (keys, counts, num_zero, num_nan, num_inf, min, max)
  py::tuple state() const {
    std::vector<uint64_t> keys, counts;
    Histogram::Totals t{};
    alone([&] {
      for (size_t key = 0; key < Histogram::kNumKeys; ++key) {
        const uint64_t n = histogram_.at(key);
        if (n == 0) continue;
        keys.push_back(key);
        counts.push_back(n);
      }
      t = {histogram_.num_zero(), histogram_.num_nan(), histogram_.num_inf(), 0.0f, 0.0f};
      if (histogram_.count() > 0) {
        t.min = histogram_.min();
        t.max = histogram_.max();
      }
    });
    return py::make_tuple(to_array(keys), to_array(counts), t.num_zero, t.num_nan, t.num_inf, t.min, t.max);
  }

  void restore(const Counts& dense, uint64_t num_zero, uint64_t num_nan, uint64_t num_inf, float min, float max) {
    if (dense.size() != static_cast<py::ssize_t>(Histogram::kNumKeys)) {
      throw std::invalid_argument("counts must have one entry a key");
    }
    if (!alone([&] { return histogram_.restore(dense.data(), {num_zero, num_nan, num_inf, min, max}); })) {
      throw std::invalid_argument("counts, minimum and maximum contradict each other");
    }
  }

  template <typename Get>
  auto read(Get get) const {
    return alone([&] { return get(histogram_); });
  }

  /// Runs `body` on the atoms without the GIL.
  template <typename Body>
  auto with_atoms(bool magnitude, Body body) const {
    const WithoutGil released;
    const FpGuard guard;
    const std::vector<Atom> atoms = read([&](const Histogram& h) { return h.atoms(magnitude); });
    return body(atoms);
  }

 private:
  mutable Turn turn_;
  mutable bool torn_ = false;
  Histogram histogram_;
};

using Atoms = std::vector<Atom>;

/// histograms[i] counts arrays[i], one thread a pair.
void update_histograms(const std::vector<SharedHistogram*>& histograms, const std::vector<Floats>& arrays) {
  if (histograms.size() != arrays.size()) throw std::invalid_argument("one array a histogram");
  std::vector<std::pair<const float*, size_t>> spans;
  for (const Floats& x : arrays) spans.emplace_back(x.data(), static_cast<size_t>(x.size()));
  for (const SharedHistogram* histogram : histograms) histogram->require_whole();
  const WithoutGil released;
  parallel_for(spans.size(), num_threads(), [&](size_t i) { histograms[i]->count(spans[i].first, spans[i].second); });
}

}  // namespace

void bind_calibration(pybind11::module_& m) {
  py::class_<SharedHistogram>(m, "KeyHistogram", plain_type())
      .def(py::init<>())
      .def("update", &SharedHistogram::update, py::arg("x").noconvert())
      .def("merge", &SharedHistogram::merge, py::arg("other"))
      .def("equals", &SharedHistogram::equals, py::arg("other"))
      .def("state", &SharedHistogram::state)
      .def("restore", &SharedHistogram::restore, py::arg("counts").noconvert(), py::arg("num_zero"), py::arg("num_nan"),
           py::arg("num_inf"), py::arg("min"), py::arg("max"))
      .def_property_readonly("count",
                             [](const SharedHistogram& h) { return h.read([](auto& x) { return x.count(); }); })
      .def_property_readonly("num_zero",
                             [](const SharedHistogram& h) { return h.read([](auto& x) { return x.num_zero(); }); })
      .def_property_readonly("num_nan",
                             [](const SharedHistogram& h) { return h.read([](auto& x) { return x.num_nan(); }); })
      .def_property_readonly("num_inf",
                             [](const SharedHistogram& h) { return h.read([](auto& x) { return x.num_inf(); }); })
      .def_property_readonly("min", [](const SharedHistogram& h) { return h.read([](auto& x) { return x.min(); }); })
      .def_property_readonly("max", [](const SharedHistogram& h) { return h.read([](auto& x) { return x.max(); }); })
      .def(
          "quantile",
          [](const SharedHistogram& h, double q, bool magnitude) {
            return h.with_atoms(magnitude, [&](const Atoms& a) { return quantile(a, q); });
          },
          py::arg("q"), py::arg("magnitude"))
      .def(
          "fraction_outside",
          [](const SharedHistogram& h, double lo, double hi) {
            return h.with_atoms(false, [&](const Atoms& a) { return fraction_outside(a, lo, hi); });
          },
          py::arg("lo"), py::arg("hi"))
      .def(
          "linear",
          [](const SharedHistogram& h, double lo, double hi, size_t bins, bool magnitude) {
            return to_array(h.with_atoms(magnitude, [&](const Atoms& a) { return linear_histogram(a, lo, hi, bins); }));
          },
          py::arg("lo"), py::arg("hi"), py::arg("bins"), py::arg("magnitude"))
      .def(
          "quantization_error",
          [](const SharedHistogram& h, double scale, double first, double last, double exponent) {
            return h.with_atoms(false,
                                [&](const Atoms& a) { return quantization_error(a, scale, first, last, exponent); });
          },
          py::arg("scale"), py::arg("first"), py::arg("last"), py::arg("exponent"))
      .def(
          "powers",
          [](const SharedHistogram& h, double scale, double first, double last) {
            const Powers p = h.with_atoms(false, [&](const Atoms& a) { return powers(a, scale, first, last); });
            return py::make_tuple(p.signal, p.noise);
          },
          py::arg("scale"), py::arg("first"), py::arg("last"))
      .def(
          "error_threshold",
          [](const SharedHistogram& h, int num_levels, double exponent) {
            return h.with_atoms(false, [&](const Atoms& a) { return error_threshold(a, num_levels, exponent); });
          },
          py::arg("num_levels"), py::arg("exponent"))
      .def(
          "error_range",
          [](const SharedHistogram& h, int num_levels, double exponent) {
            const Range r = h.with_atoms(false, [&](const Atoms& a) { return error_range(a, num_levels, exponent); });
            return py::make_tuple(r.lo, r.hi);
          },
          py::arg("num_levels"), py::arg("exponent"));

  m.def("update_histograms", &update_histograms, py::arg("histograms"), py::arg("arrays").noconvert());

  m.def(
      "entropy_search",
      [](const Counts& counts, size_t num_levels) {
        const auto num_bins = static_cast<size_t>(counts.size());
        if (num_levels < 1 || num_levels > num_bins) throw std::invalid_argument("num_levels must lie in [1, bins]");
        const uint64_t* data = counts.data();
        EntropyResult result{};
        {
          const WithoutGil released;
          const FpGuard guard;
          result = entropy_search(data, num_bins, num_levels);
        }
        return py::make_tuple(result.num_kept, result.divergence);
      },
      py::arg("counts").noconvert(), py::arg("num_levels"));
  m.def(
      "entropy_of",
      [](const Counts& counts, size_t first, size_t last, size_t num_levels) {
        const auto num_bins = static_cast<size_t>(counts.size());
        if (num_levels < 2 || last > num_bins || first > last || num_levels > last - first) {
          throw std::invalid_argument("num_levels must lie in [2, last - first], and the window in the bins");
        }
        const uint64_t* data = counts.data();
        const WithoutGil released;
        const FpGuard guard;
        return entropy_of(data, num_bins, first, last, num_levels);
      },
      py::arg("counts").noconvert(), py::arg("first"), py::arg("last"), py::arg("num_levels"));
  m.def(
      "entropy_window",
      [](const Counts& counts, size_t zero, size_t num_levels) {
        const auto num_bins = static_cast<size_t>(counts.size());
        if (num_levels < 2 || num_levels > num_bins || zero >= num_bins) {
          throw std::invalid_argument("num_levels must lie in [2, bins], and zero in the bins");
        }
        const uint64_t* data = counts.data();
        EntropyWindow found{};
        {
          const WithoutGil released;
          const FpGuard guard;
          found = entropy_window(data, num_bins, zero, num_levels);
        }
        return py::make_tuple(found.first, found.last, found.divergence);
      },
      py::arg("counts").noconvert(), py::arg("zero"), py::arg("num_levels"));
}

}  // namespace ek
