// A constant that the caller or a kernel reads as a tensor: its blob is copied to where it is wanted.
#include <cstring>

#include "program/steps/checks.h"

namespace ek {
namespace {

struct Constant : NoArguments {
  Status check(const ProgramIndex& index, const Step& step) const {
    const bool fits = has(step, 0, 1) && blob_is(index, step, 0, bytes_of(output(index, step)));
    return fits ? Status() : bad_step(step, "its blob does not match its tensor");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    return {"move",
            [from = site.blob(step.blobs[0]), n = bytes_of(site.tensor(step.out[0])), to = site.place(step.out[0])] {
              if (n > 0) std::memcpy(*to, *from, n);
            }};
  }
};

}  // namespace

StepType constant_step() { return step_type<Constant>(StepKind::kConstant, "CONSTANT", true); }

}  // namespace ek
