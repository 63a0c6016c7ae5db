// The index of a compiled program as plain Python objects.
#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "program/program.h"
#include "program/steps/step.h"

namespace ek {
namespace {

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

/// Records leave a list by value: a reference into it would dangle once the list is assigned.
template <typename T>
auto copy_of(std::vector<T> ProgramIndex::*list) {
  return [list](const ProgramIndex& index) { return std::vector<T>(index.*list); };
}
template <typename T>
auto assign_to(std::vector<T> ProgramIndex::*list) {
  return [list](ProgramIndex& index, std::vector<T> items) { index.*list = std::move(items); };
}

/// Arguments by name, as the step's kind has them; of a damaged step, those that are there.
py::dict arguments_of_step(const Step& step) {
  py::dict found;
  size_t ints = 0, floats = 0;
  for (const ArgumentName& argument : find_step_type(step.kind)->arguments) {
    const size_t left = argument.real ? step.floats.size() - floats : step.ints.size() - ints;
    const size_t count = argument.count == 0 ? left : std::min(argument.count, left);
    py::list values;
    for (size_t i = 0; i < count; ++i) {
      argument.real ? values.append(step.floats[floats++]) : values.append(step.ints[ints++]);
    }
    if (argument.count == 1 && count == 1) {
      found[argument.name] = values[0];
    } else {
      found[argument.name] = values;
    }
  }
  return found;
}

/// "rows, k, columns"
std::string names_of(const StepType& type) {
  std::string names;
  for (const ArgumentName& argument : type.arguments) names += (names.empty() ? "" : ", ") + std::string(argument.name);
  return names.empty() ? "none" : names;
}

/// What an argument must be, in words.
const char* described(const ArgumentName& argument) {
  if (argument.real) return argument.count == 1 ? "a number" : "a list of numbers";
  return argument.count == 1 ? "an integer" : "a list of integers";
}

/// Replaces a step's arguments by those given: all that its kind has, and no others.
void set_arguments(Step* step, const py::dict& given) {
  const StepType& type = *find_step_type(step->kind);
  const auto of = [&](const std::string& name) { return "'" + name + "' of " + type.name; };
  std::vector<int64_t> ints;
  std::vector<float> floats;
  py::dict left = given.attr("copy")();
  for (const ArgumentName& argument : type.arguments) {
    if (!left.contains(argument.name)) fail(Code::kValue, "Step: the argument " + of(argument.name) + " is missing");
    const py::object value = left.attr("pop")(argument.name);
    try {
      if (argument.real && argument.count == 0) {
        const auto values = value.cast<std::vector<float>>();
        floats.insert(floats.end(), values.begin(), values.end());
      } else if (argument.real) {
        floats.push_back(value.cast<float>());
      } else if (argument.count == 1) {
        ints.push_back(value.cast<int64_t>());
      } else {
        const auto values = value.cast<std::vector<int64_t>>();
        if (argument.count != 0 && values.size() != argument.count) {
          fail(Code::kValue, "Step: " + of(argument.name) + " must have " + std::to_string(argument.count) +
                                 " numbers, got " + std::to_string(values.size()));
        }
        ints.insert(ints.end(), values.begin(), values.end());
      }
    } catch (const py::cast_error&) {
      fail(Code::kType,
           "Step: " + of(argument.name) + " must be " + described(argument) + ", got " + std::string(py::repr(value)));
    }
  }
  for (const auto& [name, value] : left) {
    fail(Code::kValue, "Step: there is no argument " + of(py::str(name)) + "; it takes " + names_of(type));
  }
  step->ints = std::move(ints);
  step->floats = std::move(floats);
}

}  // namespace

void bind_program(py::module_& m) {
  py::native_enum<DType>(m, "DType", "enum.IntEnum")
      .value("U8", DType::kU8)
      .value("S8", DType::kS8)
      .value("I32", DType::kI32)
      .value("F32", DType::kF32)
      .value("I64", DType::kI64)
      .value("BOOL", DType::kBool)
      .value("F64", DType::kF64)
      .value("F16", DType::kF16)
      .value("BF16", DType::kBf16)
      .finalize();
  py::native_enum<Storage>(m, "Storage", "enum.IntEnum")
      .value("WHOLE", Storage::kWhole)
      .value("F16", Storage::kF16)
      .value("BF16", Storage::kBf16)
      .value("INT4", Storage::kInt4)
      .finalize();
  py::native_enum<StepKind> kinds(m, "StepKind", "enum.IntEnum");
  for (const StepType& type : step_types()) kinds.value(type.name, type.kind);
  kinds.finalize();

  py::native_enum<MapOp> ops(m, "MapOp", "enum.IntEnum");
#define EK_BIND_OP(op, number, name, operands, whole) ops.value(name, MapOp::op);
  EK_MAP_OPS(EK_BIND_OP)
#undef EK_BIND_OP
  ops.finalize();

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
      .def(py::init([](std::string name, uint64_t offset, uint64_t nbytes, const py::bytes& sha256, Storage stored,
                       uint32_t parts, uint64_t codes) {
             return BlobDef{std::move(name), offset, nbytes, digest_of(sha256), stored, parts, codes};
           }),
           py::kw_only(), py::arg("name"), py::arg("offset"), py::arg("bytes"), py::arg("sha256"),
           py::arg("stored") = Storage::kWhole, py::arg("parts") = 0, py::arg("codes") = 0)
      .def_readwrite("name", &BlobDef::name)
      .def_readwrite("offset", &BlobDef::offset)
      .def_readwrite("bytes", &BlobDef::bytes)
      .def_readwrite("stored", &BlobDef::stored)
      .def_readwrite("parts", &BlobDef::parts)
      .def_readwrite("codes", &BlobDef::codes)
      .def_property(
          "sha256", [](const BlobDef& b) { return bytes_of(b.sha256); },
          [](BlobDef& b, const py::bytes& sha256) { b.sha256 = digest_of(sha256); });
  py::class_<Step>(m, "Step", py::is_final(), plain_type())
      .def(py::init([](StepKind kind, std::string name, std::string op, Ids in, Ids out, Ids blobs,
                       const py::dict& arguments) {
             Step step{kind, std::move(name), std::move(op), std::move(in), std::move(out), std::move(blobs), {}, {}};
             set_arguments(&step, arguments);
             return step;
           }),
           py::kw_only(), py::arg("kind"), py::arg("name"), py::arg("op"), py::arg("inputs"), py::arg("outputs"),
           py::arg("blobs") = Ids{}, py::arg("arguments") = py::dict())
      .def_readwrite("kind", &Step::kind)
      .def_readwrite("name", &Step::name)
      .def_readwrite("op", &Step::op)
      .def_readwrite("inputs", &Step::in)
      .def_readwrite("outputs", &Step::out)
      .def_readwrite("blobs", &Step::blobs)
      .def_property("arguments", &arguments_of_step, &set_arguments)
      .def_property_readonly("macs", [](const Step& step) { return find_step_type(step.kind)->macs(step); });
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
      .def(
          "work",
          [](const ProgramIndex& i, size_t step) {
            if (step >= i.steps.size()) fail(Code::kValue, "ProgramIndex: there is no step " + std::to_string(step));
            throw_if_error(check_ids(i, i.steps[step]));
            throw_if_error(check_step(i, i.steps[step]));
            const Work work = work_of(i, i.steps[step]);
            return py::make_tuple(work.macs, work.bytes);
          },
          py::arg("step"))
      .def(
          "replaceable",
          [](const ProgramIndex& i, size_t step) {
            if (step >= i.steps.size()) fail(Code::kValue, "ProgramIndex: there is no step " + std::to_string(step));
            const Step& s = i.steps[step];
            throw_if_error(check_ids(i, s));
            std::vector<size_t> found;
            for (size_t k = 0; k < s.in.size(); ++k) {
              if (may_replace(i, s, k)) found.push_back(k);
            }
            return found;
          },
          py::arg("step"))
      .def(
          "validate", [](const ProgramIndex& i, uint64_t data_bytes) { throw_if_error(validate(i, data_bytes)); },
          py::arg("data_bytes"));
}

}  // namespace ek
