#include "program/session.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <new>

#include "base/checked.h"
#include "base/fp_env.h"
#include "base/memory_limit.h"
#include "gemm/paths.h"
#include "program/steps/checks.h"
#include "program/widen.h"
#include "threads/pool.h"
#include "weights/mapped.h"

namespace ek {

/// Threads that a session starts before its first run, where more are asked for than there are CPUs: a thousand of
/// them, hired for a number given by mistake, would wake at every job of the process.
constexpr int kMostAtOnce = 64;

namespace {

/// Where runs keep what they compute. Sessions that share one take turns.
struct Workspace {
  AlignedBuffer arena, scratch;
  uint8_t* scratch_at = nullptr;  // of what steps share, once all have said how much they want

  void want_scratch(size_t bytes) {
    if (bytes > scratch.size()) scratch = AlignedBuffer(bytes);
    scratch_at = scratch.data();
  }
};

bool same_blobs(const ProgramIndex& a, const ProgramIndex& b) {
  return std::equal(a.blobs.begin(), a.blobs.end(), b.blobs.begin(), b.blobs.end(),
                    [](const BlobDef& x, const BlobDef& y) {
                      return x.offset == y.offset && x.bytes == y.bytes && x.stored == y.stored && x.parts == y.parts &&
                             x.codes == y.codes;
                    });
}

}  // namespace

struct Session::Impl final : StepSite {
  ProgramIndex index;
  std::unique_ptr<WeightSource> weights;
  std::vector<const uint8_t*> blobs;  // where they are pinned; null where they are not
  bool blobs_stay = false;            // pinned once, when the session was created
  Runtime rt{nullptr, 1}, alone{nullptr, 1};
  Choice choice;  // of the step that is being prepared
  std::shared_ptr<Workspace> work;
  std::shared_ptr<const Widened> widened;
  bool owns_work = false, owns_widened = false;
  size_t scratch_bytes = 0;
  std::vector<uint8_t*> places;  // of tensors: in the arena, or the caller's memory while run() has moved them there
  std::vector<bool> movable;     // what only steps touch that ask `places`
  std::deque<std::vector<int32_t>> kept;  // a deque keeps their addresses
  std::deque<std::vector<float>> kept_floats;
  std::deque<std::vector<double>> kept_doubles;
  Fault fault_of_run;
  std::vector<Prepared> steps;
  uint64_t* clock = nullptr;  // the caller's, of each step
  uint64_t copied = 0;        // bytes, by the run that is on or was last

  const Runtime& runtime() const override { return choice.alone ? alone : rt; }
  const Path* path() const override { return choice.path.empty() ? nullptr : find_path(choice.path); }
  const TensorDef& tensor(uint32_t id) const override { return index.tensors[id]; }
  uint8_t* bytes(uint32_t id) override { return work->arena.data() + index.tensors[id].offset; }
  uint8_t* const* place(uint32_t id) override { return &places[id]; }
  const uint8_t* const* blob(uint32_t id) const override { return &blobs[id]; }
  uint8_t* const* scratch(size_t n) override {
    scratch_bytes = std::max(scratch_bytes, n);
    return &work->scratch_at;
  }
  int32_t* keep(size_t count) override { return kept.emplace_back(count).data(); }
  float* keep_floats(size_t count) override { return kept_floats.emplace_back(count).data(); }
  double* keep_doubles(size_t count) override { return kept_doubles.emplace_back(count).data(); }
  Fault* fault() override { return &fault_of_run; }

  uint64_t size(uint32_t id) const {
    uint64_t n = 0;
    const bool fits = ek::tensor_bytes(tensor(id), &n);
    return fits ? n : 0;
  }

  bool is_widened(uint32_t id) const { return index.blobs[id].stored != Storage::kWhole; }
  void pin(uint32_t id) {
    if (!is_widened(id)) blobs[id] = weights->pin(index.blobs[id].offset, index.blobs[id].bytes);
  }
  void unpin(uint32_t id) {
    if (is_widened(id)) return;
    weights->unpin(index.blobs[id].offset, index.blobs[id].bytes);
    blobs[id] = nullptr;
  }
  /// Takes memory over, or makes it.
  Status find_memory(const Session* arena_of, const Session* weights_of);
  /// Calls body() with the step's blobs pinned.
  template <typename Body>
  void with_blobs(const Step& step, Body&& body) {
    for (const uint32_t id : step.blobs) pin(id);
    body();
    for (const uint32_t id : step.blobs) unpin(id);
  }
  void prepare(const Step& step) {
    const bool idle = size(step.out[0]) == 0;  // however large its other sizes: walking them could take forever
    const auto add = [&] {
      steps.push_back(idle ? Prepared{"none", [] {}} : find_step_type(step.kind)->prepare(step, *this));
    };
    blobs_stay ? add() : with_blobs(step, add);
  }
  /// Whether the step that was prepared last has the path that was chosen.
  Status check_choice(const Step& step) const {
    const std::vector<const char*>& able = steps.back().choices;
    if (choice.path.empty() || std::find(able.begin(), able.end(), choice.path) != able.end()) return {};
    std::string known;
    for (const char* key : able) known += (known.empty() ? "" : ", ") + std::string(key);
    return {Code::kValue, "session: step '" + step.name + "' (" + step.op + ") cannot take the path '" + choice.path +
                              "' here; " + (known.empty() ? "it has none to choose" : "it can take " + known)};
  }
  void run_step(size_t step) {
    if (blobs_stay) return steps[step].run();
    with_blobs(index.steps[step], [&] { steps[step].run(); });
  }

  void run_steps(size_t segment) {
    const Segment& steps_of = index.segments[segment];
    if (clock != nullptr) return run_timed(steps_of);
    for (size_t i = steps_of.begin; i < steps_of.end; ++i) run_step(i);
  }
  /// The clock is read once between two steps: what reading takes is the later one's.
  void run_timed(const Segment& steps_of) {
    using Clock = std::chrono::steady_clock;
    auto begin = Clock::now();
    for (size_t i = steps_of.begin; i < steps_of.end; ++i) {
      run_step(i);
      const auto end = Clock::now();
      clock[i] = static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(end - begin).count());
      begin = end;
    }
  }
  /// What the run that ends here has to say; the next one begins without it.
  Status end_run() {
    if (fault_of_run.step == nullptr) return {};
    const Fault fault = fault_of_run;
    fault_of_run = {};
    return {Code::kValue, "run: step '" + fault.step->name + "' (" + fault.step->op + ") was given the index " +
                              std::to_string(fault.index) + ", which lies outside of [" + std::to_string(fault.low) +
                              ", " + std::to_string(fault.high) + "]; results hold zeros where it was used"};
  }

  void find_movable();
  /// All of a tensor, between the caller's array and the arena.
  void copy(void* to, const void* from, uint32_t id) {
    if (to == from) return;
    std::memmove(to, from, size(id));
    copied += size(id);
  }
  bool may_move(uint32_t id, const void* to) const {
    return movable[id] && reinterpret_cast<uintptr_t>(to) % dtype_bytes(tensor(id).dtype) == 0 &&
           !overlap(to, size(id), work->arena.data(), work->arena.size());
  }
  /// Whether `n` bytes lie where an output is wanted, other than the one that is numbered `but`.
  bool meets_output(const void* p, size_t n, void* const* outputs, size_t but) const {
    for (size_t j = 0; j < index.outputs.size(); ++j) {
      if (j != but && outputs[j] != nullptr && overlap(p, n, outputs[j], size(index.outputs[j]))) return true;
    }
    return false;
  }
};

Status Session::Impl::find_memory(const Session* arena_of, const Session* weights_of) {
  for (const Session* other : {arena_of, weights_of}) {
    if (other != nullptr && !same_blobs(index, other->impl_->index)) {
      return {Code::kValue, "session: the one that it shares memory with has other blobs"};
    }
  }
  owns_work = arena_of == nullptr;
  if (owns_work) {
    work = std::make_shared<Workspace>();
    work->arena = AlignedBuffer(index.arena_bytes);
  } else {
    work = arena_of->impl_->work;
    if (work->arena.size() < index.arena_bytes) {
      return {Code::kValue, "session: it wants an arena of " + std::to_string(index.arena_bytes) +
                                " bytes, and the one that it shares has " + std::to_string(work->arena.size())};
    }
  }
  owns_widened = weights_of == nullptr;
  widened = owns_widened ? std::make_shared<const Widened>(widen_blobs(index, *weights, rt, work->arena.size()))
                         : weights_of->impl_->widened;
  for (uint32_t id = 0; id < blobs.size(); ++id) {
    if (is_widened(id)) blobs[id] = (*widened)[id].data();
  }
  return {};
}

/// Tensors at the border of the program, named there once, filled there or by a step, without views, that only steps
/// touch which read and write where `places` says.
void Session::Impl::find_movable() {
  std::vector<int> named(places.size(), 0);
  std::vector<bool> filled(places.size(), false);
  for (const uint32_t id : index.inputs) ++named[id], filled[id] = true;
  for (const uint32_t id : index.outputs) ++named[id];
  for (size_t id = 0; id < named.size(); ++id) {
    const int32_t of = index.tensors[id].alias_of;
    if (of >= 0) named[id] = named[static_cast<size_t>(of)] = 0;
  }
  for (const Step& step : index.steps) {
    for (const uint32_t id : step.out) filled[id] = true;
    if (find_step_type(step.kind)->at_border) continue;
    for (const uint32_t id : step.in) named[id] = 0;
    for (const uint32_t id : step.out) named[id] = 0;
  }
  for (size_t id = 0; id < named.size(); ++id) movable.push_back(named[id] == 1 && filled[id]);
}

Session::Session() = default;
Session::~Session() = default;

Status Session::create(ProgramIndex index, std::unique_ptr<WeightSource> weights, Isa isa, int threads,
                       std::unique_ptr<Session>* out, Beside beside, const std::vector<Choice>& choices) {
  try {
    EK_RETURN_IF_ERROR(validate(index, weights->size()));
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "session: no memory to check an index of " + std::to_string(index.tensors.size()) +
                                 " tensors and " + std::to_string(index.steps.size()) + " steps"};
  }
  return create_valid(std::move(index), std::move(weights), isa, threads, out, beside, choices);
}

Status Session::create_valid(ProgramIndex index, std::unique_ptr<WeightSource> weights, Isa isa, int threads,
                             std::unique_ptr<Session>* out, Beside beside, const std::vector<Choice>& choices) {
  const std::vector<Isa>& isas = available_isas();
  if (std::find(isas.begin(), isas.end(), isa) == isas.end()) {
    return {Code::kUnsupportedIsa, std::string("session: this CPU does not run ") + isa_name(isa)};
  }
  if (threads < 1 || threads > kMaxThreads) {
    return {Code::kValue,
            "session: num_threads must be in [1, " + std::to_string(kMaxThreads) + "], got " + std::to_string(threads)};
  }
  if (!choices.empty() && choices.size() != index.steps.size()) {
    return {Code::kValue, "session: got choices for " + std::to_string(choices.size()) + " steps of " +
                              std::to_string(index.steps.size())};
  }
  std::unique_ptr<Session> session(new Session);
  session->impl_ = std::make_unique<Impl>();
  Impl& impl = *session->impl_;
  impl.index = std::move(index);
  impl.weights = std::move(weights);
  impl.rt = {&kernels(isa), threads};
  impl.alone = {&kernels(isa), 1};
  try {
    impl.blobs.resize(impl.index.blobs.size());
    EK_RETURN_IF_ERROR(impl.find_memory(beside.arena, beside.weights));
    for (uint32_t id = 0; id < impl.index.tensors.size(); ++id) impl.places.push_back(impl.bytes(id));
    impl.find_movable();
    impl.blobs_stay = impl.weights->stays();
    if (impl.blobs_stay) {
      for (uint32_t id = 0; id < impl.blobs.size(); ++id) impl.pin(id);
    }
    impl.steps.reserve(impl.index.steps.size());
    for (size_t i = 0; i < impl.index.steps.size(); ++i) {
      if (!choices.empty()) impl.choice = choices[i];
      impl.prepare(impl.index.steps[i]);
      EK_RETURN_IF_ERROR(impl.check_choice(impl.index.steps[i]));
    }
    const size_t arena_bytes = impl.work->arena.size();
    require_memory(arena_bytes + std::min(impl.scratch_bytes, SIZE_MAX - arena_bytes));
    impl.work->want_scratch(impl.scratch_bytes);
    const int workers = std::min(threads, std::max(allowed_cpus(), kMostAtOnce));
    parallel_for(static_cast<size_t>(workers), workers, [](size_t) {});  // starts the pool's workers now, not in run
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "session: no memory for an arena of " + std::to_string(impl.index.arena_bytes) +
                                 " bytes and scratch of " + std::to_string(impl.scratch_bytes)};
  }
  *out = std::move(session);
  return {};
}

namespace {

Status resident(const uint8_t* data, uint64_t bytes, std::unique_ptr<WeightSource>* weights) {
  if (reinterpret_cast<uintptr_t>(data) % AlignedBuffer::kAlignment != 0) {
    return {Code::kValue, "session: data must start at a multiple of 64 bytes"};
  }
  *weights = std::make_unique<ResidentWeights>(data, bytes);
  return {};
}

}  // namespace

Status Session::create(ProgramIndex index, const uint8_t* data, uint64_t data_bytes, Isa isa, int threads,
                       std::unique_ptr<Session>* out, Beside beside, const std::vector<Choice>& choices) {
  std::unique_ptr<WeightSource> weights;
  EK_RETURN_IF_ERROR(resident(data, data_bytes, &weights));
  return create(std::move(index), std::move(weights), isa, threads, out, beside, choices);
}

namespace {

/// What open() asks beyond open_container().
Status open_checked(const uint8_t* file, size_t size, const std::string& source, Verify verify, ContainerView* view) {
  try {
    EK_RETURN_IF_ERROR(open_container(file, size, source, verify, view));
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "session: no memory for the index of " + source};
  }
  if (!needs_host(view->index)) return {};
  return {Code::kValue, "session: " + source +
                            " has host steps, which Python's InferenceSession runs; compile the model with "
                            "allow_host=False to see which nodes they are"};
}

}  // namespace

Status Session::open(const std::string& path, Verify verify, Isa isa, int threads, std::unique_ptr<Session>* out) {
  MappedFile file;
  ContainerView view;
  EK_RETURN_IF_ERROR(MappedFile::open(path, "session", &file));
  EK_RETURN_IF_ERROR(open_checked(file.data(), file.size(), "'" + path + "'", verify, &view));
  auto weights = std::make_unique<MappedWeights>(std::move(file), view.start);
  return create_valid(std::move(view.index), std::move(weights), isa, threads, out);
}

Status Session::open(const uint8_t* file, size_t size, Verify verify, Isa isa, int threads,
                     std::unique_ptr<Session>* out) {
  ContainerView view;
  EK_RETURN_IF_ERROR(open_checked(file, size, "the bytes given", verify, &view));
  std::unique_ptr<WeightSource> weights;
  EK_RETURN_IF_ERROR(resident(view.data, view.data_bytes, &weights));
  return create_valid(std::move(view.index), std::move(weights), isa, threads, out);
}

const ProgramIndex& Session::index() const { return impl_->index; }
uint8_t* Session::tensor(uint32_t id) { return impl_->bytes(id); }
const char* Session::path(size_t step) const { return impl_->steps[step].path; }
const std::vector<const char*>& Session::choices(size_t step) const { return impl_->steps[step].choices; }
uint64_t Session::tensor_bytes(uint32_t id) const { return impl_->size(id); }

Status Session::run_segment(size_t segment) noexcept {
  const FpGuard guard;
  impl_->run_steps(segment);
  return impl_->end_run();
}

Status Session::run_step(size_t step) noexcept {
  const FpGuard guard;
  impl_->run_step(step);
  return impl_->end_run();
}

Status Session::run(const void* const* inputs, void* const* outputs) noexcept {
  Impl& m = *impl_;
  const std::vector<uint32_t>&in = m.index.inputs, &out = m.index.outputs;
  m.copied = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    if (m.may_move(in[i], inputs[i]) && !m.meets_output(inputs[i], m.size(in[i]), outputs, out.size())) {
      m.places[in[i]] = static_cast<uint8_t*>(const_cast<void*>(inputs[i]));  // no step writes to an input
    } else {
      m.copy(m.bytes(in[i]), inputs[i], in[i]);
    }
  }
  for (size_t j = 0; j < out.size(); ++j) {
    if (outputs[j] == nullptr || !m.may_move(out[j], outputs[j])) continue;
    if (!m.meets_output(outputs[j], m.size(out[j]), outputs, j)) m.places[out[j]] = static_cast<uint8_t*>(outputs[j]);
  }
  {
    const FpGuard guard;
    for (size_t i = 0; i < m.index.segments.size(); ++i) m.run_steps(i);
  }
  for (size_t j = 0; j < out.size(); ++j) {
    if (outputs[j] != nullptr && m.places[out[j]] != outputs[j]) m.copy(outputs[j], m.bytes(out[j]), out[j]);
  }
  const Status ended = m.end_run();
  forget_run();
  return ended;
}

uint64_t Session::bytes_copied() const { return impl_->copied; }

void Session::set_clock(uint64_t* nanoseconds) noexcept { impl_->clock = nanoseconds; }

void Session::forget_run() {
  impl_->fault_of_run = {};
  for (const uint32_t id : impl_->index.inputs) impl_->places[id] = impl_->bytes(id);
  for (const uint32_t id : impl_->index.outputs) impl_->places[id] = impl_->bytes(id);
  for (uint32_t id = 0; !impl_->blobs_stay && id < impl_->blobs.size(); ++id) {
    if (impl_->blobs[id] != nullptr) impl_->unpin(id);  // of a step that never ended
  }
}

uint64_t Session::arena_bytes() const {
  const Impl& m = *impl_;
  uint64_t total = m.owns_work ? m.work->arena.size() + m.work->scratch.size() : 0;
  if (m.owns_widened) {
    for (const AlignedBuffer& room : *m.widened) total += room.size();
  }
  for (const auto& values : impl_->kept) total += values.size() * sizeof(int32_t);
  for (const auto& values : impl_->kept_floats) total += values.size() * sizeof(float);
  return total;
}

}  // namespace ek
