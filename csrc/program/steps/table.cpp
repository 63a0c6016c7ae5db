// The list of all kinds of steps, and what is asked of any of them.
#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {

StepType quantize_step();
StepType quantize_nchw_step();
StepType dequantize_step();
StepType dequantize_nchw_step();
StepType conv_step();
StepType depthwise_step();
StepType gemm_step();
StepType add_step();
StepType lookup_step();
StepType max_pool_step();
StepType average_pool_step();
StepType concat_step();
StepType slice_step();
StepType pad_step();
StepType transpose_step();

const std::vector<StepType>& step_types() {
  static const std::vector<StepType>& types =
      *new std::vector<StepType>{quantize_step(), quantize_nchw_step(), dequantize_step(),   dequantize_nchw_step(),
                                 conv_step(),     depthwise_step(),     gemm_step(),         add_step(),
                                 lookup_step(),   max_pool_step(),      average_pool_step(), concat_step(),
                                 slice_step(),    pad_step(),           transpose_step()};
  return types;
}

const StepType* find_step_type(StepKind kind) {
  for (const StepType& type : step_types()) {
    if (type.kind == kind) return &type;
  }
  return nullptr;
}

Status check_step(const ProgramIndex& index, const Step& step) {
  if (step.in.empty() || step.out.size() != 1) return bad_step(step, "needs an input and one output");
  const StepType* const type = find_step_type(step.kind);
  if (type == nullptr) return bad_step(step, "unknown kind " + std::to_string(static_cast<int>(step.kind)));
  return type->check(index, step);
}

Work work_of(const ProgramIndex& index, const Step& step) {
  Work work{find_step_type(step.kind)->macs(step), 0};
  for (const uint32_t id : step.in) work.bytes += bytes_of(index.tensors[id]);
  for (const uint32_t id : step.out) work.bytes += bytes_of(index.tensors[id]);
  for (const uint32_t id : step.blobs) work.bytes += index.blobs[id].bytes;
  return work;
}

}  // namespace ek
