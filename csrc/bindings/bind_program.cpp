// Compiled programs for Python: the index as plain objects, packed blobs, the memory planner, sessions.
#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/checked.h"
#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "gemm/pack.h"
#include "memory/planner.h"
#include "program/program.h"
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
  }
  return py::dtype::of<uint8_t>();
}

std::array<uint8_t, 32> digest_of(const py::bytes& bytes) {
  const std::string text = bytes;
  std::array<uint8_t, 32> digest{};
  if (text.size() != digest.size())
    fail(Code::kValue, "sha256: a digest has 32 bytes, got " + std::to_string(text.size()));
  std::copy(text.begin(), text.end(), digest.begin());
  return digest;
}

py::bytes bytes_of(const std::array<uint8_t, 32>& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

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

std::vector<Buffer> buffers_of(const char* function, const std::vector<int64_t>& lower,
                               const std::vector<int64_t>& upper, const std::vector<uint64_t>& size) {
  if (lower.size() != upper.size() || lower.size() != size.size()) {
    fail(Code::kValue, std::string(function) + ": lower, upper and size must have the same length, got " +
                           std::to_string(lower.size()) + ", " + std::to_string(upper.size()) + " and " +
                           std::to_string(size.size()));
  }
  std::vector<Buffer> buffers;
  for (size_t i = 0; i < size.size(); ++i) buffers.push_back({lower[i], upper[i], size[i]});
  return buffers;
}

MemoryPlan plan(const std::vector<int64_t>& lower, const std::vector<int64_t>& upper, const std::vector<uint64_t>& size,
                uint64_t alignment) {
  const std::vector<Buffer> buffers = buffers_of("plan_memory", lower, upper, size);
  MemoryPlan made;
  Status status;
  {
    const WithoutGil released;
    status = plan_memory(buffers, alignment, &made);
  }
  throw_if_error(status);
  return made;
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

  /// Calls body() without the GIL and alone.
  template <typename Body>
  void run(Body&& body) {
    const WithoutGil released;
    const Turn::Guard guard(turn);
    if (guard.orphaned()) session->forget_run();
    body();
  }
};

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
                                           std::vector<std::string> output_names) {
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
    status = Session::create(index, from, bytes, rt.kernels->isa, rt.threads, &bound->session);
  }
  throw_if_error(status);
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
py::array array_of(const TensorDef& tensor, const char* what, const std::string& border, py::handle given) {
  const auto name = [&] { return std::string("run: ") + what + " '" + border + "'"; };
  if (!py::isinstance<py::array>(given)) {
    fail(Code::kType,
         name() + " must be a NumPy array, got " + std::string(py::str(py::type::of(given).attr("__name__"))));
  }
  py::array a = py::reinterpret_borrow<py::array>(given);
  const py::dtype wanted = numpy_dtype(tensor.dtype);
  if (!a.dtype().is(wanted) && !a.dtype().equal(wanted)) {
    fail(Code::kType,
         name() + " must be " + std::string(py::str(wanted)) + ", got " + dtype_name(a) + "; convert it with astype");
  }
  const size_t rank = tensor.shape.size();
  if (static_cast<size_t>(a.ndim()) != rank) {
    fail(Code::kValue, name() + " must have " + std::to_string(rank) + " dimensions " + shape_text(tensor) + ", got " +
                           std::to_string(a.ndim()) + " " + shape_name(a));
  }
  for (size_t i = 0; i < rank; ++i) {
    if (a.shape(static_cast<py::ssize_t>(i)) == tensor.shape[i]) continue;
    fail(Code::kValue, name() + " must have shape " + shape_text(tensor) + ", got " + shape_name(a) +
                           "; the batch is fixed by compile(batch=...)");
  }
  return a;
}

/// What the core can read and write where it lies.
bool is_plain(const py::array& a) { return (a.flags() & py::array::c_style) != 0 && is_aligned(a); }

/// What a run reads and writes, checked: an array for each input of the program, an array or none for each output.
struct Operands {
  std::vector<py::array> inputs, outputs;
};

Operands checked_operands(const BoundSession& s, const py::list& inputs, const py::list& outputs) {
  const ProgramIndex& index = s.session->index();
  if (inputs.size() != index.inputs.size() || outputs.size() != index.outputs.size()) {
    fail(Code::kValue, "run: takes " + std::to_string(index.inputs.size()) + " inputs and " +
                           std::to_string(index.outputs.size()) + " outputs, got " + std::to_string(inputs.size()) +
                           " and " + std::to_string(outputs.size()));
  }
  Operands all;
  for (size_t i = 0; i < inputs.size(); ++i) {
    all.inputs.push_back(array_of(index.tensors[index.inputs[i]], "input", s.input_names[i], inputs[i]));
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const py::object given = outputs[i];
    if (given.is_none()) {
      all.outputs.push_back(py::reinterpret_steal<py::array>(py::handle()));
      continue;
    }
    const TensorDef& tensor = index.tensors[index.outputs[i]];
    all.outputs.push_back(array_of(tensor, "out for", s.output_names[i], given));
    if (!all.outputs.back().writeable()) {
      fail(Code::kValue, "run: out for '" + s.output_names[i] + "' is read-only; pass a writeable array");
    }
  }
  return all;
}

/// False, and nothing is run, when an array is strided or unaligned: that goes through the arena.
bool run(BoundSession& s, const py::list& inputs, const py::list& outputs) {
  Operands given = checked_operands(s, inputs, outputs);
  std::vector<const void*> from;
  std::vector<void*> to;
  for (const py::array& x : given.inputs) {
    if (!is_plain(x)) return false;
    from.push_back(x.data());
  }
  for (py::array& y : given.outputs) {
    if (y && !is_plain(y)) return false;
    to.push_back(y ? y.mutable_data() : nullptr);
  }
  s.run([&] { s.session->run(from.data(), to.data()); });
  return true;
}

/// Records leave a list by value: a reference into it would dangle once the list is assigned.
template <typename T>
auto copy_of(std::vector<T> ProgramIndex::*list) {
  return [list](const ProgramIndex& index) { return std::vector<T>(index.*list); };
}
template <typename T>
auto assign_to(std::vector<T> ProgramIndex::*list) {
  return [list](ProgramIndex& index, std::vector<T> items) { index.*list = std::move(items); };
}

void bind_index(py::module_& m) {
  py::native_enum<DType>(m, "DType", "enum.IntEnum")
      .value("U8", DType::kU8)
      .value("S8", DType::kS8)
      .value("I32", DType::kI32)
      .value("F32", DType::kF32)
      .value("I64", DType::kI64)
      .value("BOOL", DType::kBool)
      .value("F64", DType::kF64)
      .finalize();
  py::native_enum<StepKind>(m, "StepKind", "enum.IntEnum")
      .value("QUANTIZE", StepKind::kQuantize)
      .value("QUANTIZE_NCHW", StepKind::kQuantizeNchw)
      .value("DEQUANTIZE", StepKind::kDequantize)
      .value("DEQUANTIZE_NCHW", StepKind::kDequantizeNchw)
      .value("CONV", StepKind::kConv)
      .value("DEPTHWISE", StepKind::kDepthwise)
      .value("GEMM", StepKind::kGemm)
      .value("ADD", StepKind::kAdd)
      .value("LOOKUP", StepKind::kLookup)
      .value("MAX_POOL", StepKind::kMaxPool)
      .value("AVERAGE_POOL", StepKind::kAveragePool)
      .value("CONCAT", StepKind::kConcat)
      .value("SLICE", StepKind::kSlice)
      .value("PAD", StepKind::kPad)
      .value("TRANSPOSE", StepKind::kTranspose)
      .finalize();
  py::native_enum<StepUnit>(m, "StepUnit", "enum.IntEnum")
      .value("CUBE", StepUnit::kCube)
      .value("VECTOR", StepUnit::kVector)
      .finalize();

  using Shape = std::vector<int64_t>;
  using Ids = std::vector<uint32_t>;
  py::class_<TensorDef>(m, "TensorDef", py::is_final(), plain_type())
      .def(py::init([](std::string name, DType dtype, Shape shape, float scale, int32_t zero_point, uint64_t offset,
                       int32_t alias_of) {
             return TensorDef{std::move(name), dtype, std::move(shape), scale, zero_point, offset, alias_of};
           }),
           py::kw_only(), py::arg("name"), py::arg("dtype"), py::arg("shape"), py::arg("scale") = 1.0f,
           py::arg("zero_point") = 0, py::arg("offset") = 0, py::arg("alias_of") = -1)
      .def_readwrite("name", &TensorDef::name)
      .def_readwrite("dtype", &TensorDef::dtype)
      .def_readwrite("shape", &TensorDef::shape)
      .def_readwrite("scale", &TensorDef::scale)
      .def_readwrite("zero_point", &TensorDef::zero_point)
      .def_readwrite("offset", &TensorDef::offset)
      .def_readwrite("alias_of", &TensorDef::alias_of);
  py::class_<BlobDef>(m, "BlobDef", py::is_final(), plain_type())
      .def(py::init([](std::string name, uint64_t offset, uint64_t nbytes, const py::bytes& sha256) {
             return BlobDef{std::move(name), offset, nbytes, digest_of(sha256)};
           }),
           py::kw_only(), py::arg("name"), py::arg("offset"), py::arg("bytes"), py::arg("sha256"))
      .def_readwrite("name", &BlobDef::name)
      .def_readwrite("offset", &BlobDef::offset)
      .def_readwrite("bytes", &BlobDef::bytes)
      .def_property(
          "sha256", [](const BlobDef& b) { return bytes_of(b.sha256); },
          [](BlobDef& b, const py::bytes& sha256) { b.sha256 = digest_of(sha256); });
  py::class_<Step>(m, "Step", py::is_final(), plain_type())
      .def(py::init([](StepKind kind, StepUnit unit, std::string name, std::string op, Ids in, Ids out, Ids blobs,
                       Shape ints, std::vector<float> floats) {
             return Step{kind,
                         unit,
                         std::move(name),
                         std::move(op),
                         std::move(in),
                         std::move(out),
                         std::move(blobs),
                         std::move(ints),
                         std::move(floats)};
           }),
           py::kw_only(), py::arg("kind"), py::arg("unit"), py::arg("name"), py::arg("op"), py::arg("inputs"),
           py::arg("outputs"), py::arg("blobs") = Ids{}, py::arg("ints") = Shape{},
           py::arg("floats") = std::vector<float>{})
      .def_readwrite("kind", &Step::kind)
      .def_readwrite("unit", &Step::unit)
      .def_readwrite("name", &Step::name)
      .def_readwrite("op", &Step::op)
      .def_readwrite("inputs", &Step::in)
      .def_readwrite("outputs", &Step::out)
      .def_readwrite("blobs", &Step::blobs)
      .def_readwrite("ints", &Step::ints)
      .def_readwrite("floats", &Step::floats);
  py::class_<Segment>(m, "Segment", py::is_final(), plain_type())
      .def(py::init([](uint32_t begin, uint32_t end) {
             return Segment{begin, end};
           }),
           py::kw_only(), py::arg("begin"), py::arg("end"))
      .def_readwrite("begin", &Segment::begin)
      .def_readwrite("end", &Segment::end);
  py::class_<ProgramIndex>(m, "ProgramIndex", py::is_final(), plain_type())
      .def(py::init([](std::string producer, std::vector<TensorDef> tensors, std::vector<BlobDef> blobs,
                       std::vector<Step> steps, std::vector<Segment> segments, Ids inputs, Ids outputs,
                       uint64_t arena_bytes) {
             ProgramIndex index;
             index.producer = std::move(producer);
             index.tensors = std::move(tensors);
             index.blobs = std::move(blobs);
             index.steps = std::move(steps);
             index.segments = std::move(segments);
             index.inputs = std::move(inputs);
             index.outputs = std::move(outputs);
             index.arena_bytes = arena_bytes;
             return index;
           }),
           py::kw_only(), py::arg("producer") = "", py::arg("tensors") = std::vector<TensorDef>{},
           py::arg("blobs") = std::vector<BlobDef>{}, py::arg("steps") = std::vector<Step>{},
           py::arg("segments") = std::vector<Segment>{}, py::arg("inputs") = Ids{}, py::arg("outputs") = Ids{},
           py::arg("arena_bytes") = 0)
      .def_readwrite("version", &ProgramIndex::version)
      .def_readwrite("producer", &ProgramIndex::producer)
      .def_property("tensors", copy_of(&ProgramIndex::tensors), assign_to(&ProgramIndex::tensors))
      .def_property("blobs", copy_of(&ProgramIndex::blobs), assign_to(&ProgramIndex::blobs))
      .def_property("steps", copy_of(&ProgramIndex::steps), assign_to(&ProgramIndex::steps))
      .def_property("segments", copy_of(&ProgramIndex::segments), assign_to(&ProgramIndex::segments))
      .def_readwrite("inputs", &ProgramIndex::inputs)
      .def_readwrite("outputs", &ProgramIndex::outputs)
      .def_readwrite("arena_bytes", &ProgramIndex::arena_bytes)
      .def_property(
          "header_sha256", [](const ProgramIndex& i) { return bytes_of(i.header_sha256); },
          [](ProgramIndex& i, const py::bytes& sha256) { i.header_sha256 = digest_of(sha256); })
      .def("encode",
           [](const ProgramIndex& i) {
             const std::string bytes = encode(i);
             ProgramIndex back;  // what decode would refuse is an error here already
             const Status status = decode(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), &back);
             if (!status.ok()) fail(Code::kValue, "encode: " + status.message());
             return py::bytes(bytes);
           })
      .def("__eq__",
           [](const ProgramIndex& a, const py::object& b) {
             return py::isinstance<ProgramIndex>(b) && encode(a) == encode(b.cast<const ProgramIndex&>());
           })
      .def_static(
          "decode",
          [](const py::bytes& bytes) {
            const std::string text = bytes;
            ProgramIndex index;
            throw_if_error(decode(reinterpret_cast<const uint8_t*>(text.data()), text.size(), &index));
            return index;
          },
          py::arg("data"))
      .def_static(
          "decode_front",
          [](const py::array_t<uint8_t>& data) {
            if (data.ndim() != 1) fail(Code::kValue, "decode_front: data must be bytes in one row");
            ProgramIndex index;
            size_t used = 0;
            throw_if_error(decode_front(data.data(), usize(data.size()), &index, &used));
            return py::make_tuple(std::move(index), used);
          },
          py::arg("data").noconvert())
      .def(
          "validate", [](const ProgramIndex& i, uint64_t data_bytes) { throw_if_error(validate(i, data_bytes)); },
          py::arg("data_bytes"));
}

}  // namespace

void bind_program(py::module_& m) {
  bind_index(m);
  m.def("pack_weights_blob", &pack_weights_blob, py::arg("w").noconvert());
  m.def("pack_depthwise_blob", &pack_depthwise_blob, py::arg("w").noconvert());
  py::class_<MemoryPlan>(m, "MemoryPlan", py::is_final(), plain_type())
      .def(py::init([](std::vector<uint64_t> offsets, uint64_t peak, uint64_t lower_bound, std::string method) {
             return MemoryPlan{std::move(offsets), peak, lower_bound, std::move(method)};
           }),
           py::kw_only(), py::arg("offsets"), py::arg("peak"), py::arg("lower_bound"), py::arg("method"))
      .def_readonly("offsets", &MemoryPlan::offsets)
      .def_readonly("peak", &MemoryPlan::peak)
      .def_readonly("lower_bound", &MemoryPlan::lower_bound)
      .def_readonly("method", &MemoryPlan::method);
  m.def("plan_memory", &plan, py::arg("lower"), py::arg("upper"), py::arg("size"), py::arg("alignment") = 64);
  m.def(
      "check_plan",
      [](const std::vector<int64_t>& lower, const std::vector<int64_t>& upper, const std::vector<uint64_t>& size,
         const std::vector<uint64_t>& offsets, uint64_t alignment, uint64_t capacity) {
        throw_if_error(check_plan(buffers_of("check_plan", lower, upper, size), offsets, alignment, capacity));
      },
      py::arg("lower"), py::arg("upper"), py::arg("size"), py::arg("offsets"), py::arg("alignment"),
      py::arg("capacity"));
  py::class_<BoundSession>(m, "Session", py::is_final(), plain_type())
      .def(py::init(&make_session), py::arg("index"), py::arg("data"), py::arg("isa") = "", py::arg("num_threads") = 0,
           py::arg("input_names") = std::vector<std::string>(), py::arg("output_names") = std::vector<std::string>())
      .def(
          "run_segment",
          [](BoundSession& s, size_t i) {
            if (i >= s.session->index().segments.size())
              fail(Code::kValue, "session: there is no segment " + std::to_string(i));
            s.run([&] { s.session->run_segment(i); });
          },
          py::arg("segment"))
      .def(
          "run_step",
          [](BoundSession& s, size_t i) {
            if (i >= s.session->index().steps.size())
              fail(Code::kValue, "session: there is no step " + std::to_string(i));
            s.run([&] { s.session->run_step(i); });
          },
          py::arg("step"))
      .def(
          "check",
          [](const BoundSession& s, const py::list& inputs, const py::list& outputs) {
            checked_operands(s, inputs, outputs);
          },
          py::arg("inputs"), py::arg("outputs"))
      .def("run", &run, py::arg("inputs"), py::arg("outputs"))
      .def("tensor", &view, py::arg("id"))
      .def_property_readonly("arena_bytes", [](const BoundSession& s) { return s.session->arena_bytes(); })
      .def_property_readonly("bytes_copied", [](const BoundSession& s) { return s.copy.size(); })
      .def_readonly("isa", &BoundSession::isa)
      .def_readonly("num_threads", &BoundSession::threads);
}

}  // namespace ek
