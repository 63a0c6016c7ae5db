// Softmax of rows of 8-bit codes, by a table of exponentials.
#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "program/steps/checks.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr double kElementsPerUs = 800;
constexpr size_t kTaskElements = 8192;
constexpr size_t kDifferences = 256;

struct Softmax : NoMacs {
  size_t rows = 0, columns = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.size("columns", columns, 1);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 1, 1)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (!is_quantized(x.dtype) || !is_quantized(y.dtype)) return bad_step(step, "damaged arguments");
    if (!holds(x, {rows, columns}) || !holds(y, {rows, columns}))
      return bad_step(step, "tensors do not match its sizes");
    return blob_is(index, step, 0, kDifferences * sizeof(int32_t)) ? Status() : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const size_t per_task = std::max<size_t>(1, kTaskElements / columns);
    const double us = static_cast<double>(rows) * static_cast<double>(columns) / kElementsPerUs;
    const int threads = worth_a_thread(us) ? rt.threads : 1;
    return {"softmax", [&rt, rows = rows, n = columns, per_task, threads, sign = quant_of(site.tensor(step.in[0])).sign,
                        q = quant_of(site.tensor(step.out[0])), from = site.bytes(step.in[0]),
                        table = site.blob(step.blobs[0]), to = site.bytes(step.out[0])] {
              const auto* const exponentials = reinterpret_cast<const int32_t*>(*table);
              parallel_for(ceil_div(rows, per_task), threads, [&](size_t task) {
                const size_t first = task * per_task, count = std::min(per_task, rows - first);
                rt.kernels->softmax(from + first * n, count, n, sign, exponentials, q, to + first * n);
              });
            }};
  }
};

}  // namespace

StepType softmax_step() { return step_type<Softmax>(StepKind::kSoftmax, "SOFTMAX"); }

}  // namespace ek
