// A program that runs, for Python: arrays in place where they can be read and written there.
#include <pybind11/stl.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "program/session.h"
#include "threads/turn.h"

namespace ek {
namespace {

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::kU8:
      return py::dtype::of<uint8_t>();
    case DType::kS8:
      return py::dtype::of<int8_t>();
    case DType::kI32:
      return py::dtype::of<int32_t>();
    case DType::kF32:
      return py::dtype::of<float>();
    case DType::kI64:
      return py::dtype::of<int64_t>();
    case DType::kBool:
      return py::dtype::of<bool>();
    case DType::kF64:
      return py::dtype::of<double>();
    case DType::kF16:
      return py::dtype("float16");
    case DType::kBf16:
      return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  }
  return py::dtype::of<uint8_t>();
}

/// A session and the file bytes that its weights lie in: the caller's own, or a copy where those do not start on a
/// cache line. Running takes turns: the GIL is released meanwhile, and the arena is one.
struct BoundSession {
  py::buffer_info data;
  AlignedBuffer copy;
  std::unique_ptr<Session> session;
  Turn turn;
  std::string isa;
  int threads = 1;
  std::vector<std::string> input_names, output_names;  // for errors
  std::vector<uint64_t> clock;                         // of each step, while it is on
  std::vector<uint64_t> border_sizes;                  // bytes of inputs, then outputs
  std::atomic<uint64_t> border_bytes{0};               // that the last run copied; read while others run

  /// Calls body() without the GIL and alone; raises what it says.
  template <typename Body>
  void run(Body&& body) {
    throw_if_error([&] {
      const WithoutGil released;
      const Turn::Guard guard(turn);
      if (guard.orphaned()) session->forget_run();
      return body();
    }());
  }
};

/// Bytes of inputs, then of outputs.
std::vector<uint64_t> border_sizes(const Session& session) {
  std::vector<uint64_t> sizes;
  for (const uint32_t id : session.index().inputs) sizes.push_back(session.tensor_bytes(id));
  for (const uint32_t id : session.index().outputs) sizes.push_back(session.tensor_bytes(id));
  return sizes;
}

/// The names that a caller knows, else those of the tensors.
std::vector<std::string> border_names(const ProgramIndex& index, const std::vector<uint32_t>& ids,
                                      std::vector<std::string> names) {
  if (names.size() == ids.size()) return names;
  names.clear();
  for (const uint32_t id : ids) names.push_back(index.tensors[id].name);
  return names;
}

std::unique_ptr<BoundSession> make_session(const ProgramIndex& index, const py::buffer& data, const std::string& isa,
                                           int threads, std::vector<std::string> input_names,
                                           std::vector<std::string> output_names, const BoundSession* arena_of,
                                           const BoundSession* weights_of,
                                           const std::vector<std::pair<std::string, bool>>& given) {
  const Beside beside{arena_of == nullptr ? nullptr : arena_of->session.get(),
                      weights_of == nullptr ? nullptr : weights_of->session.get()};
  std::vector<Choice> choices;
  for (const auto& [path, alone] : given) choices.push_back({path, alone});
  auto bound = std::make_unique<BoundSession>();
  bound->data = data.request();
  if (PyBuffer_IsContiguous(bound->data.view(), 'C') == 0) fail(Code::kValue, "Session: data must be C-contiguous");
  const auto bytes = static_cast<size_t>(bound->data.size * bound->data.itemsize);
  const auto* from = static_cast<const uint8_t*>(bound->data.ptr);
  const Runtime rt = make_runtime(isa, threads);
  bound->isa = isa_name(rt.kernels->isa);
  bound->threads = rt.threads;
  Status status;
  {
    const WithoutGil released;
    if (reinterpret_cast<uintptr_t>(from) % AlignedBuffer::kAlignment != 0) {
      bound->copy = AlignedBuffer(bytes);
      std::memcpy(bound->copy.data(), from, bytes);
      from = bound->copy.data();
    }
    status = Session::create(index, from, bytes, rt.kernels->isa, rt.threads, &bound->session, beside, choices);
  }
  throw_if_error(status);
  bound->border_sizes = border_sizes(*bound->session);
  bound->input_names = border_names(index, index.inputs, std::move(input_names));
  bound->output_names = border_names(index, index.outputs, std::move(output_names));
  return bound;
}

uint32_t checked_tensor(const BoundSession& s, uint32_t id) {
  if (id < s.session->index().tensors.size()) return id;
  fail(Code::kValue, "session: there is no tensor " + std::to_string(id));
}

std::vector<py::ssize_t> shape_of(const TensorDef& tensor) { return {tensor.shape.begin(), tensor.shape.end()}; }

/// The tensor's bytes in the arena as an array that keeps the session alive.
py::array view(const py::object& self, uint32_t id) {
  BoundSession& s = self.cast<BoundSession&>();
  const TensorDef& tensor = s.session->index().tensors[checked_tensor(s, id)];
  return {numpy_dtype(tensor.dtype), shape_of(tensor), s.session->tensor(id), self};
}

std::string shape_text(const TensorDef& tensor) {
  std::string text = "(";
  for (const int64_t n : tensor.shape) text += (text.size() > 1 ? ", " : "") + std::to_string(n);
  return text + (tensor.shape.size() == 1 ? ",)" : ")");
}

/// `given` as an array with the tensor's dtype and shape, or an error that names it as `border` does.
py::array array_of(const std::string& function, const TensorDef& tensor, const char* what, const std::string& border,
                   py::handle given) {
  const auto name = [&] { return function + ": " + what + " '" + border + "'"; };
  if (!py::isinstance<py::array>(given)) {
    fail(Code::kType,
         name() + " must be a NumPy array, got " + std::string(py::str(py::type::of(given).attr("__name__"))));
  }
  py::array a = py::reinterpret_borrow<py::array>(given);
  const py::dtype wanted = numpy_dtype(tensor.dtype);
  if (!a.dtype().is(wanted) && !a.dtype().equal(wanted)) {
    const bool bytes = tensor.dtype == DType::kU8 || tensor.dtype == DType::kS8;
    const bool codes = bytes && (tensor.scale != 1.0f || tensor.zero_point != 0);
    fail(Code::kType, name() + " must be " + std::string(py::str(wanted)) + ", got " + dtype_name(a) +
                          (codes ? "; quantize it with edgekern.quantize_linear, by the scale and zero point that "
                                   "get_inputs() and get_outputs() state"
                                 : "; convert it with astype"));
  }
  const size_t rank = tensor.shape.size();
  if (static_cast<size_t>(a.ndim()) != rank) {
    fail(Code::kValue, name() + " must have " + std::to_string(rank) + " dimensions " + shape_text(tensor) + ", got " +
                           std::to_string(a.ndim()) + " " + shape_name(a));
  }
  for (size_t i = 0; i < rank; ++i) {
    if (a.shape(static_cast<py::ssize_t>(i)) == tensor.shape[i]) continue;
    fail(Code::kValue, name() + " must have shape " + shape_text(tensor) + ", got " + shape_name(a) +
                           "; sizes are fixed by compile(batch=..., shapes=...)");
  }
  return a;
}

/// What the core can read and write where it lies.
bool is_plain(const py::array& a) { return (a.flags() & py::array::c_style) != 0 && is_aligned(a); }

/// What a run reads and writes, checked: an array for each input of the program, an array or none for each output.
struct Operands {
  std::vector<py::array> inputs, outputs;
};

Operands checked_operands(const std::string& function, const BoundSession& s, const py::list& inputs,
                          const py::list& outputs) {
  const ProgramIndex& index = s.session->index();
  if (inputs.size() != index.inputs.size() || outputs.size() != index.outputs.size()) {
    fail(Code::kValue, function + ": takes " + std::to_string(index.inputs.size()) + " inputs and " +
                           std::to_string(index.outputs.size()) + " outputs, got " + std::to_string(inputs.size()) +
                           " and " + std::to_string(outputs.size()));
  }
  Operands all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const TensorDef& tensor = index.tensors[index.inputs[i]];
    all.inputs.push_back(array_of(function, tensor, "input", s.input_names[i], inputs[i]));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const py::object given = outputs[i];
    if (given.is_none()) {
      all.outputs.push_back(py::reinterpret_steal<py::array>(py::handle()));
      continue;
    }
    const TensorDef& tensor = index.tensors[index.outputs[i]];
    all.outputs.push_back(array_of(function, tensor, "out for", s.output_names[i], given));
    if (!all.outputs.back().writeable()) {
      fail(Code::kValue, function + ": out for '" + s.output_names[i] + "' is read-only; pass a writeable array");
    }
  }
  return all;
}

/// Where a run reads and writes.
struct Places {
  std::vector<const void*> from;
  std::vector<void*> to;
};

/// False when an array is strided or unaligned.
bool find_places(Operands& given, Places* places) {
  for (const py::array& x : given.inputs) {
    if (!is_plain(x)) return false;
    places->from.push_back(x.data());
  }
  for (py::array& y : given.outputs) {
    if (y && !is_plain(y)) return false;
    places->to.push_back(y ? y.mutable_data() : nullptr);
  }
  return true;
}

void run_at(BoundSession& s, const Places& places) {
  s.run([&] {
    Status status = s.session->run(places.from.data(), places.to.data());
    s.border_bytes = s.session->bytes_copied();
    return status;
  });
}

/// False, and nothing is run, when an array is strided or unaligned: that goes through the arena.
bool run(BoundSession& s, const py::list& inputs, const py::list& outputs) {
  Operands given = checked_operands("run", s, inputs, outputs);
  Places places;
  if (!find_places(given, &places)) return false;
  run_at(s, places);
  return true;
}

/// Arrays that were checked once, for any number of runs; they are kept alive.
struct BoundArrays {
  Operands held;
  Places places;
  std::vector<uint64_t> sizes;  // of borders: a session of others may not run on them
};

std::unique_ptr<BoundArrays> bind_arrays(const BoundSession& s, const py::list& inputs, const py::list& outputs) {
  auto bound = std::make_unique<BoundArrays>();
  bound->held = checked_operands("bind", s, inputs, outputs);
  if (!find_places(bound->held, &bound->places)) {
    fail(Code::kValue, "bind: arrays must be C-contiguous and aligned; pass numpy.ascontiguousarray of each");
  }
  bound->sizes = s.border_sizes;
  return bound;
}

void run_bound(BoundSession& s, const BoundArrays& bound) {
  if (bound.sizes != s.border_sizes) fail(Code::kValue, "run: the arrays were bound to another program");
  run_at(s, bound.places);
}

/// The nanoseconds of each step, which runs write from now on; or None, and no clock is read.
py::object clock(const py::object& self, bool on) {
  BoundSession& s = self.cast<BoundSession&>();
  s.clock.resize(s.session->index().steps.size());
  s.run([&] {
    s.session->set_clock(on ? s.clock.data() : nullptr);
    return Status();
  });
  if (!on) return py::none();
  return py::array_t<uint64_t>(static_cast<py::ssize_t>(s.clock.size()), s.clock.data(), self);
}

void check_number(const char* what, size_t i, size_t count) {
  if (i >= count) fail(Code::kValue, std::string("session: there is no ") + what + " " + std::to_string(i));
}

}  // namespace

void bind_session(py::module_& m) {
  made_by_core(py::class_<BoundArrays>(m, "BoundArrays", py::is_final(), plain_type()));
  py::class_<BoundSession>(m, "Session", py::is_final(), plain_type())
      .def(py::init(&make_session), py::arg("index"), py::arg("data"), py::arg("isa") = "", py::arg("num_threads") = 0,
           py::arg("input_names") = std::vector<std::string>(), py::arg("output_names") = std::vector<std::string>(),
           py::arg("arena_of") = nullptr, py::arg("weights_of") = nullptr,
           py::arg("choices") = std::vector<std::pair<std::string, bool>>())
      .def(
          "run_segment",
          [](BoundSession& s, size_t i) {
            check_number("segment", i, s.session->index().segments.size());
            s.run([&] { return s.session->run_segment(i); });
          },
          py::arg("segment"))
      .def(
          "run_step",
          [](BoundSession& s, size_t i) {
            check_number("step", i, s.session->index().steps.size());
            s.run([&] { return s.session->run_step(i); });
          },
          py::arg("step"))
      .def(
          "check",
          [](const BoundSession& s, const py::list& inputs, const py::list& outputs) {
            checked_operands("run", s, inputs, outputs);
          },
          py::arg("inputs"), py::arg("outputs"))
      .def("run", &run, py::arg("inputs"), py::arg("outputs"))
      .def("bind", &bind_arrays, py::arg("inputs"), py::arg("outputs"))
      .def("run_bound", &run_bound, py::arg("bound"))
      .def("tensor", &view, py::arg("id"))
      .def("clock", &clock, py::arg("on"))
      .def(
          "path",
          [](const BoundSession& s, size_t i) {
            check_number("step", i, s.session->index().steps.size());
            return s.session->path(i);
          },
          py::arg("step"))
      .def(
          "choices",
          [](const BoundSession& s, size_t i) {
            check_number("step", i, s.session->index().steps.size());
            return s.session->choices(i);
          },
          py::arg("step"))
      .def_property_readonly("arena_bytes", [](const BoundSession& s) { return s.session->arena_bytes(); })
      .def_property_readonly("bytes_copied", [](const BoundSession& s) { return s.copy.size(); })
      .def_property(
          "border_bytes", [](const BoundSession& s) { return s.border_bytes.load(); },
          [](BoundSession& s, uint64_t bytes) { s.border_bytes = bytes; })
      .def_readonly("isa", &BoundSession::isa)
      .def_readonly("num_threads", &BoundSession::threads);
}

}  // namespace ek
