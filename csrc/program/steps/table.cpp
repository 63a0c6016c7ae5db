// All kinds of steps that this build has, of those that program.h lists, and what is asked of any of them.
#include <cctype>

#include "base/checked.h"
#include "program/steps/checks.h"
#include "program/steps/kept_steps.h"

namespace ek {

#define EK_DECLARE(kind, number, type) StepType type();
EK_KEPT_STEPS(EK_DECLARE)

std::string step_kind_name(StepKind kind) {
  std::string name;
#define EK_NAME(known, number, type) \
  if (kind == StepKind::known) name = #type;
  EK_STEP_KINDS(EK_NAME)
  name.resize(name.size() - std::min(name.size(), sizeof "_step" - 1));
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

const std::vector<StepType>& step_types() {
#define EK_MAKE(kind, number, type) type(),
  static const std::vector<StepType>& types = *new std::vector<StepType>{EK_KEPT_STEPS(EK_MAKE)};
  return types;
}

const StepType* find_step_type(StepKind kind) {
  for (const StepType& type : step_types()) {
    if (type.kind == kind) return &type;
  }
  return nullptr;
}

Status check_step(const ProgramIndex& index, const Step& step) {
  const bool reads = !step.in.empty() || step.kind == StepKind::kConstant;
  if (!reads || step.out.size() != 1) return bad_step(step, "needs an input and one output");
  const StepType* const type = find_step_type(step.kind);
  if (type == nullptr) {
    const std::string name = step_kind_name(step.kind);
    if (name.empty()) return bad_step(step, "unknown kind " + std::to_string(static_cast<int>(step.kind)));
    return {Code::kValue, "step '" + step.name + "' (" + step.op + ") is of the kind " + name +
                              ", which this build leaves out; build it with " + name + " in -DEDGEKERN_STEPS"};
  }
  return type->check(index, step);
}

bool may_replace(const ProgramIndex& index, const Step& step, size_t i) {
  const StepType* const type = find_step_type(step.kind);
  if (type == nullptr || type->replaces == nullptr || step.out.size() != 1) return false;
  const TensorDef &x = input(index, step, i), &y = output(index, step);
  if (dtype_bytes(x.dtype) != dtype_bytes(y.dtype) || elements_of(x) != elements_of(y)) return false;
  return type->replaces(index, step, i);
}

Work work_of(const ProgramIndex& index, const Step& step) {
  Work work{find_step_type(step.kind)->macs(step), 0};
  for (const uint32_t id : step.in) work.bytes += bytes_of(index.tensors[id]);
  for (const uint32_t id : step.out) work.bytes += bytes_of(index.tensors[id]);
  for (const uint32_t id : step.blobs) work.bytes += held_bytes(index.blobs[id]);
  return work;
}

}  // namespace ek
