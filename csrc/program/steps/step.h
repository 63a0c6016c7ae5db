// What a kind of step is: its arguments, what it refuses, how it is prepared, what it costs. One file a family beside
// this one; table.cpp lists them.
#pragma once

#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "base/status.h"
#include "kernels/kernels.h"
#include "program/program.h"
#include "program/steps/arguments.h"

namespace ek {

struct Path;

/// Data that a run cannot do: an index that leaves its axis. Nothing is read there, and the run says so at its end.
struct Fault {
  const Step* step = nullptr;  // null: none so far
  int64_t index = 0, low = 0, high = 0;

  /// The first one of a run stays. By one thread at a time.
  void note(const Step* at, int64_t found, int64_t lowest, int64_t highest) {
    if (step == nullptr) *this = {at, found, lowest, highest};
  }
};

/// What a step may ask of the session that it is prepared for. Addresses hold as long as the session; no tensor is read
/// or written before it runs.
class StepSite {
 public:
  virtual const Runtime& runtime() const = 0;
  /// The path of gemm/paths.h that the step shall take, by measurement; null: the best by rule.
  virtual const Path* path() const = 0;
  virtual const TensorDef& tensor(uint32_t id) const = 0;
  /// A tensor's bytes in the arena.
  virtual uint8_t* bytes(uint32_t id) = 0;
  /// Where to look for a tensor's bytes at each run: in the arena, or in the caller's memory (StepType::at_border).
  virtual uint8_t* const* place(uint32_t id) = 0;
  /// Where to look for a blob's bytes, while the step is prepared and at each run: in between they may be elsewhere, or
  /// nowhere.
  virtual const uint8_t* const* blob(uint32_t id) const = 0;
  /// Where to look for at least `bytes` of memory that all steps share: it holds nothing from one step to the next.
  virtual uint8_t* const* scratch(size_t bytes) = 0;
  /// Memory of the step's own.
  virtual int32_t* keep(size_t count) = 0;
  virtual float* keep_floats(size_t count) = 0;
  virtual double* keep_doubles(size_t count) = 0;
  /// Where a step notes what it cannot do. The step that it is prepared of has one address as long as the session.
  virtual Fault* fault() = 0;

 protected:
  ~StepSite() = default;
};

/// A step that is ready: calling it allocates nothing. `path` names the code that it will run, `choices` the keys of
/// the paths that it could take, where it takes one of gemm/paths.h.
struct Prepared {
  const char* path;
  std::function<void()> run;
  std::vector<const char*> choices = {};
};

struct Work {
  uint64_t macs = 0;   // multiply-adds
  uint64_t bytes = 0;  // of its tensors and blobs
};

struct StepType {
  StepKind kind;
  const char* name;
  std::vector<ArgumentName> arguments;
  bool at_border;  // reads and writes where place() says: the caller's arrays need no copy
  Status (*check)(const ProgramIndex& index, const Step& step);
  uint64_t (*macs)(const Step& step);                     // multiply-adds; 0 where the arguments are damaged
  Prepared (*prepare)(const Step& step, StepSite& site);  // of a step that check() lets pass
  /// Whether the result may be written over input i: each byte of that is read for the last time before it is written,
  /// by the thread that writes it. Null for a kind that never can.
  bool (*replaces)(const ProgramIndex& index, const Step& step, size_t i);
};

/// All kinds that this build has, in ascending order.
const std::vector<StepType>& step_types();
/// Null for a kind that there is not, or not in this build.
const StepType* find_step_type(StepKind kind);

/// The name of any kind of program.h, whether this build has it or not; empty for a kind that there is not.
std::string step_kind_name(StepKind kind);

/// Ids must have been checked. Refuses arguments that do not match the step's tensors and blobs, and, as kValue, a kind
/// that this build leaves out: what it lets pass, a session may run.
Status check_step(const ProgramIndex& index, const Step& step);
/// Whether the result of a step may lie where its input i lies. Ids must have been checked, tensors too.
bool may_replace(const ProgramIndex& index, const Step& step, size_t i);
/// Of a step that passes check_step().
Work work_of(const ProgramIndex& index, const Step& step);

/// "program index: step 'conv1' (Conv): what".
Status bad_step(const Step& step, const std::string& what);

/// The arguments of a step that passes check_step().
template <typename T>
T arguments_of(const Step& step) {
  T arguments;
  ReadArguments reader(step);
  arguments.each(reader);
  return arguments;
}

/// Base of the arguments of a kind that multiplies nothing.
struct NoMacs {
  uint64_t macs() const { return 0; }
};

/// Base of a kind that besides has no arguments.
struct NoArguments : NoMacs {
  template <typename Arguments>
  void each(Arguments&) {}
};

/// Whether a kind states what its result may be written over.
template <typename T, typename = void>
struct Replaces : std::false_type {};
template <typename T>
struct Replaces<T, std::void_t<decltype(&T::replaces)>> : std::true_type {};

template <typename T>
bool replaces_input(const ProgramIndex& index, const Step& step, size_t i) {
  if constexpr (Replaces<T>::value) {
    return arguments_of<T>(step).replaces(index, step, i);
  } else {
    return false;
  }
}

/// The row of a kind whose arguments are a T, with members
///   Status check(const ProgramIndex&, const Step&) const;   (of what each() has read)
///   uint64_t macs() const;
///   Prepared prepare(const Step&, StepSite&) const;
/// and, where it can write over an input,
///   bool replaces(const ProgramIndex&, const Step&, size_t i) const;   (of an input of as many bytes as the result)
template <typename T>
StepType step_type(StepKind kind, const char* name, bool at_border = false) {
  NameArguments named;
  T().each(named);
  return {kind,
          name,
          named.names,
          at_border,
          [](const ProgramIndex& index, const Step& step) -> Status {
            T arguments;
            ReadArguments reader(step);
            arguments.each(reader);
            if (std::string wrong = reader.wrong(); !wrong.empty()) return bad_step(step, wrong);
            return arguments.check(index, step);
          },
          [](const Step& step) -> uint64_t {
            T arguments;
            ReadArguments reader(step);
            arguments.each(reader);
            return reader.wrong().empty() ? arguments.macs() : 0;
          },
          [](const Step& step, StepSite& site) { return arguments_of<T>(step).prepare(step, site); },
          Replaces<T>::value ? &replaces_input<T> : nullptr};
}

}  // namespace ek
