// Compiled models for C: opened, told of, run. One lock a session: callers of several threads wait for each other.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "capi/capi.h"
#include "capi/failure.h"
#include "program/model_file.h"
#include "program/session.h"
#include "program/steps/step.h"
#include "threads/turn.h"
#include "weights/mapped.h"

namespace ek {
namespace {

/// What a model and its sessions have together; it goes with the last of them.
struct Opened {
  AlignedBuffer bytes;  // of a file that was read, or
  MappedFile mapped;
  ModelFile file;
  // Sessions that live now: a new one takes over what they have widened. Changed during a turn.
  std::vector<const ek_session*> sessions;
  Turn turn;

  bool unchanged() const { return mapped.data() == nullptr || mapped.unchanged(); }
};

}  // namespace
}  // namespace ek

struct ek_model {
  std::shared_ptr<ek::Opened> opened;
};

struct ek_session {
  std::shared_ptr<ek::Opened> opened;
  std::vector<std::unique_ptr<ek::Session>> programs;  // as the file numbers them, in one arena
  size_t mode = 0;
  std::vector<uint64_t> clock;  // of the steps of the longest program
  std::vector<const void*> from;
  std::vector<void*> to;
  ek::Turn turn;
};

namespace ek {
namespace {

ek_status check_verify(const char* function, ek_verify verify) {
  if (verify == EK_VERIFY_FULL || verify == EK_VERIFY_LAZY) return EK_OK;
  return fail(EK_ERROR_VALUE, "%s: verify must be EK_VERIFY_FULL or EK_VERIFY_LAZY, got %d", function, verify);
}

/// Holds the file to its hashes and hands it out.
ek_status finish(const char* function, std::shared_ptr<Opened> opened, const std::string& source, ek_verify verify,
                 ek_model** model) {
  const bool mapped = opened->mapped.data() != nullptr;
  const uint8_t* const data = mapped ? opened->mapped.data() : opened->bytes.data();
  const size_t size = mapped ? opened->mapped.size() : opened->bytes.size();
  const Verify how = verify == EK_VERIFY_FULL ? Verify::kFull : Verify::kLazy;
  const ek_status status = status_of(function, read_model(data, size, source, how, &opened->file));
  if (status == EK_OK) *model = new ek_model{std::move(opened)};
  return status;
}

ek_type type_of(DType dtype) { return static_cast<ek_type>(dtype); }
static_assert(int{EK_BF16} == static_cast<int>(kLastDType), "ek_type numbers types as the index does");

ek_status tell_tensor(const char* function, const ek_model* model, size_t size, size_t number,
                      std::vector<uint32_t> ProgramIndex::*side, std::vector<std::string> ModelFile::*names,
                      ek_tensor_info* info) {
  if (model == nullptr || info == nullptr) return fail(EK_ERROR_NULL, "%s: model or info is null", function);
  const ModelFile& file = model->opened->file;
  if (size >= file.num_sizes()) {
    return fail(EK_ERROR_VALUE, "%s: size must be below %zu, got %zu", function, file.num_sizes(), size);
  }
  const ProgramIndex& index = file.programs[size];
  const std::vector<uint32_t>& ids = index.*side;
  if (number >= ids.size()) {
    return fail(EK_ERROR_VALUE, "%s: number must be below %zu, got %zu", function, ids.size(), number);
  }
  const TensorDef& tensor = index.tensors[ids[number]];
  uint64_t bytes = 0;
  if (!tensor_bytes(tensor, &bytes)) return fail(EK_ERROR_INTERNAL, "%s: a size that does not fit", function);
  *info = {(file.*names)[number].c_str(), type_of(tensor.dtype), tensor.shape.size(), tensor.shape.data(),
           static_cast<size_t>(bytes),    tensor.scale,          tensor.zero_point};
  return EK_OK;
}

/// Sessions of all programs in the largest one's arena, over weights that are widened once.
Status create_programs(const Opened& opened, const Session* widened, const Runtime& rt, ek_session* session) {
  const std::vector<ProgramIndex>& programs = opened.file.programs;
  const auto largest =
      std::max_element(programs.begin(), programs.end(),
                       [](const ProgramIndex& a, const ProgramIndex& b) { return a.arena_bytes < b.arena_bytes; });
  const auto first = static_cast<size_t>(largest - programs.begin());
  session->programs.resize(programs.size());
  const auto create = [&](size_t number, Beside beside) {
    return Session::create(programs[number], opened.file.data, opened.file.data_bytes, rt.kernels->isa, rt.threads,
                           &session->programs[number], beside);
  };
  EK_RETURN_IF_ERROR(create(first, {nullptr, widened}));
  const Session* const arena = session->programs[first].get();
  size_t steps = 0;
  for (size_t number = 0; number < programs.size(); ++number) {
    if (number != first) EK_RETURN_IF_ERROR(create(number, {arena, arena}));
    steps = std::max(steps, programs[number].steps.size());
  }
  session->clock.resize(steps);
  session->from.resize(programs[0].inputs.size());
  session->to.resize(programs[0].outputs.size());
  return {};
}

/// What a run is given, beside the program that it is for.
struct Given {
  const ek_input* inputs;
  size_t num_inputs;
  const ek_output* outputs;
  size_t num_outputs;
};

ek_status check_counts(const char* function, const Given& given, const ProgramIndex& index) {
  if ((given.inputs == nullptr && given.num_inputs != 0) || (given.outputs == nullptr && given.num_outputs != 0)) {
    return fail(EK_ERROR_NULL, "%s: inputs or outputs is null", function);
  }
  if (given.num_inputs == index.inputs.size() && given.num_outputs == index.outputs.size()) return EK_OK;
  return fail(EK_ERROR_VALUE, "%s: the model has %zu inputs and %zu outputs, got %zu and %zu", function,
              index.inputs.size(), index.outputs.size(), given.num_inputs, given.num_outputs);
}

ek_status check_array(const char* function, const char* what, const std::string& name, const void* data, size_t bytes,
                      size_t wanted) {
  if (bytes != wanted) {
    return fail(EK_ERROR_VALUE, "%s: %s '%s' must have %zu bytes, got %zu", function, what, name.c_str(), wanted,
                bytes);
  }
  if (data == nullptr && wanted != 0) {
    return fail(EK_ERROR_NULL, "%s: %s '%s' is null", function, what, name.c_str());
  }
  return EK_OK;
}

/// Whether outputs lie apart from inputs and from each other.
ek_status check_apart(const char* function, const Given& given, const ModelFile& file) {
  for (size_t j = 0; j < given.num_outputs; ++j) {
    const ek_output& out = given.outputs[j];
    for (size_t i = 0; i < given.num_inputs; ++i) {
      if (!overlap(out.data, out.bytes, given.inputs[i].data, given.inputs[i].bytes)) continue;
      return fail(EK_ERROR_OUT, "%s: output '%s' overlaps input '%s'", function, file.output_names[j].c_str(),
                  file.input_names[i].c_str());
    }
    for (size_t i = 0; i < j; ++i) {
      if (!overlap(out.data, out.bytes, given.outputs[i].data, given.outputs[i].bytes)) continue;
      return fail(EK_ERROR_OUT, "%s: output '%s' overlaps output '%s'", function, file.output_names[j].c_str(),
                  file.output_names[i].c_str());
    }
  }
  return EK_OK;
}

ek_status check_given(const char* function, const ek_session& session, size_t size, const Given& given) {
  const ModelFile& file = session.opened->file;
  if (size >= file.num_sizes()) {
    return fail(EK_ERROR_VALUE, "%s: size must be below %zu, got %zu", function, file.num_sizes(), size);
  }
  const Session& program = *session.programs[size];  // of every mode: all have the same shapes
  const ProgramIndex& index = program.index();
  ek_status status = check_counts(function, given, index);
  for (size_t i = 0; status == EK_OK && i < given.num_inputs; ++i) {
    status = check_array(function, "input", file.input_names[i], given.inputs[i].data, given.inputs[i].bytes,
                         program.tensor_bytes(index.inputs[i]));
  }
  for (size_t i = 0; status == EK_OK && i < given.num_outputs; ++i) {
    const ek_output& out = given.outputs[i];
    if (out.data == nullptr && out.bytes == 0) continue;
    status = check_array(function, "output", file.output_names[i], out.data, out.bytes,
                         program.tensor_bytes(index.outputs[i]));
  }
  return status == EK_OK ? check_apart(function, given, file) : status;
}

/// Runs alone on the session, and calls told(program) before another run may begin.
template <typename Told>
ek_status run(const char* function, ek_session* session, size_t size, const Given& given, bool timed, Told&& told) {
  return no_throw(function, [&]() -> ek_status {
    if (session == nullptr) return fail(EK_ERROR_NULL, "%s: session is null", function);
    const ek_status status = check_given(function, *session, size, given);
    if (status != EK_OK) return status;
    const Turn::Guard guard(session->turn);
    if (guard.orphaned()) {
      for (const auto& program : session->programs) program->forget_run(), program->set_clock(nullptr);
    }
    if (!session->opened->unchanged()) {
      return fail(EK_ERROR_CORRUPT,
                  "%s: the file of the model was changed while it was open; replace files by renaming, "
                  "or open them with EK_VERIFY_FULL",
                  function);
    }
    Session& program = *session->programs[session->mode * session->opened->file.num_sizes() + size];
    for (size_t i = 0; i < given.num_inputs; ++i) session->from[i] = given.inputs[i].data;
    for (size_t i = 0; i < given.num_outputs; ++i) session->to[i] = given.outputs[i].data;
    if (timed) program.set_clock(session->clock.data());
    const Status ran = program.run(session->from.data(), session->to.data());
    program.set_clock(nullptr);
    told(program);
    return status_of(function, ran);
  });
}

}  // namespace

ek_status capi_model_open(const char* path, ek_verify verify, ek_model** model) {
  return no_throw("model_open", [&]() -> ek_status {
    if (path == nullptr || model == nullptr) return fail(EK_ERROR_NULL, "model_open: path or model is null");
    ek_status status = check_verify("model_open", verify);
    if (status != EK_OK) return status;
    auto opened = std::make_shared<Opened>();
    status = status_of("model_open", verify == EK_VERIFY_FULL ? read_file(path, "artifact", &opened->bytes)
                                                              : MappedFile::open(path, "artifact", &opened->mapped));
    if (status != EK_OK) return status;
    return finish("model_open", std::move(opened), "'" + std::string(path) + "'", verify, model);
  });
}

ek_status capi_model_from_bytes(const void* file, size_t bytes, ek_verify verify, ek_model** model) {
  return no_throw("model_from_bytes", [&]() -> ek_status {
    if (file == nullptr || model == nullptr) return fail(EK_ERROR_NULL, "model_from_bytes: file or model is null");
    const ek_status status = check_verify("model_from_bytes", verify);
    if (status != EK_OK) return status;
    auto opened = std::make_shared<Opened>();
    opened->bytes = AlignedBuffer(bytes);
    if (bytes != 0) std::memcpy(opened->bytes.data(), file, bytes);
    return finish("model_from_bytes", std::move(opened), "the bytes given", verify, model);
  });
}

void capi_model_close(ek_model* model) { delete model; }

ek_status capi_model_info(const ek_model* model, ek_model_info* info) {
  if (model == nullptr || info == nullptr) return fail(EK_ERROR_NULL, "model_info: model or info is null");
  const ModelFile& file = model->opened->file;
  const ProgramIndex& first = file.programs[0];
  const size_t bytes = std::max(model->opened->bytes.size(), model->opened->mapped.size());
  *info = {first.inputs.size(),   first.outputs.size(), file.dimensions.size(),
           file.num_sizes(),      file.num_modes(),     bytes,
           first.producer.c_str()};
  return EK_OK;
}

ek_status capi_model_input(const ek_model* model, size_t size, size_t number, ek_tensor_info* info) {
  return tell_tensor("model_input", model, size, number, &ProgramIndex::inputs, &ModelFile::input_names, info);
}

ek_status capi_model_output(const ek_model* model, size_t size, size_t number, ek_tensor_info* info) {
  return tell_tensor("model_output", model, size, number, &ProgramIndex::outputs, &ModelFile::output_names, info);
}

ek_status capi_model_dimension(const ek_model* model, size_t number, ek_dimension_info* info) {
  if (model == nullptr || info == nullptr) return fail(EK_ERROR_NULL, "model_dimension: model or info is null");
  const std::vector<SizedDimension>& all = model->opened->file.dimensions;
  if (number >= all.size()) {
    return fail(EK_ERROR_VALUE, "model_dimension: number must be below %zu, got %zu", all.size(), number);
  }
  *info = {all[number].name.c_str(), all[number].sizes.size(), all[number].sizes.data(), all[number].rows ? 1 : 0};
  return EK_OK;
}

ek_status capi_model_mode(const ek_model* model, size_t number, const char** name) {
  if (model == nullptr || name == nullptr) return fail(EK_ERROR_NULL, "model_mode: model or name is null");
  const ModelFile& file = model->opened->file;
  if (number >= file.num_modes()) {
    return fail(EK_ERROR_VALUE, "model_mode: number must be below %zu, got %zu", file.num_modes(), number);
  }
  *name = file.modes.empty() ? "" : file.modes[number].c_str();
  return EK_OK;
}

ek_status capi_session_create(ek_model* model, int32_t num_threads, ek_session** session) {
  return no_throw("session_create", [&]() -> ek_status {
    if (model == nullptr || session == nullptr) return fail(EK_ERROR_NULL, "session_create: model or session is null");
    Runtime rt{};
    ek_status status = runtime_of("session_create", num_threads, &rt);
    if (status != EK_OK) return status;
    auto made = std::make_unique<ek_session>();
    made->opened = model->opened;
    Opened& opened = *made->opened;
    const Turn::Guard guard(opened.turn);
    if (guard.orphaned()) opened.sessions = {};  // in the child of a fork, where the list may be half changed
    if (!opened.unchanged()) {
      return fail(EK_ERROR_CORRUPT,
                  "session_create: the file of the model was changed while it was open; open it anew");
    }
    opened.sessions.reserve(opened.sessions.size() + 1);
    const Session* const widened = opened.sessions.empty() ? nullptr : opened.sessions.front()->programs[0].get();
    status = status_of("session_create", create_programs(opened, widened, rt, made.get()));
    if (status != EK_OK) return status;
    opened.sessions.push_back(made.get());
    *session = made.release();
    return EK_OK;
  });
}

void capi_session_free(ek_session* session) {
  if (session == nullptr) return;
  const std::shared_ptr<Opened> opened = session->opened;
  const Turn::Guard guard(opened->turn);
  std::vector<const ek_session*>& all = opened->sessions;
  all.erase(std::remove(all.begin(), all.end(), session), all.end());
  delete session;
}

ek_status capi_session_bytes(ek_session* session, size_t* bytes) {
  if (session == nullptr || bytes == nullptr) return fail(EK_ERROR_NULL, "session_bytes: session or bytes is null");
  uint64_t total = 0;
  for (const auto& program : session->programs) total += program->arena_bytes();
  *bytes = static_cast<size_t>(total);
  return EK_OK;
}

ek_status capi_session_set_mode(ek_session* session, const char* mode) {
  return no_throw("session_set_mode", [&]() -> ek_status {
    if (session == nullptr || mode == nullptr) return fail(EK_ERROR_NULL, "session_set_mode: session or mode is null");
    const std::vector<std::string>& modes = session->opened->file.modes;
    const auto found = std::find(modes.begin(), modes.end(), mode);
    if (found == modes.end()) {
      std::string known;
      for (const std::string& name : modes) known += (known.empty() ? "" : ", ") + ("'" + name + "'");
      return fail(EK_ERROR_VALUE, "session_set_mode: mode must be one of the model's, got '%s'; it has %s", mode,
                  known.empty() ? "none with a name" : known.c_str());
    }
    const Turn::Guard guard(session->turn);
    session->mode = static_cast<size_t>(found - modes.begin());
    return EK_OK;
  });
}

ek_status capi_session_run(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                           const ek_output* outputs, size_t num_outputs) {
  const Given given{inputs, num_inputs, outputs, num_outputs};
  return run("session_run", session, size, given, false, [](const Session&) {});
}

ek_status capi_session_profile(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                               const ek_output* outputs, size_t num_outputs, ek_step_time* steps, size_t room,
                               size_t* num_steps) {
  if (num_steps == nullptr || (steps == nullptr && room != 0)) {
    return fail(EK_ERROR_NULL, "session_profile: steps or num_steps is null");
  }
  const Given given{inputs, num_inputs, outputs, num_outputs};
  return run("session_profile", session, size, given, true, [&](const Session& program) {
    const std::vector<Step>& all = program.index().steps;
    *num_steps = all.size();
    for (size_t i = 0; i < std::min(room, all.size()); ++i) {
      steps[i] = {all[i].name.c_str(), all[i].op.c_str(), find_step_type(all[i].kind)->name, program.path(i),
                  session->clock[i]};
    }
  });
}

}  // namespace ek
