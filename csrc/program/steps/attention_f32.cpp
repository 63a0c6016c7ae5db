// softmax(scale * q * k^T + mask) * v of float32, head by head.
#include "program/steps/batches.h"

namespace ek {
namespace {

struct AttentionF32 {
  BatchSizes batch{};
  std::array<int64_t, 4> q_batch{}, k_batch{}, v_batch{}, mask_batch{}, y_batch{};
  size_t rows = 0, keys = 0, depth = 0, value_depth = 0;
  int64_t q_row = 0, k_row = 0, k_depth = 0, v_row = 0, mask_row = 0, y_row = 0;
  bool mask_column = false;
  float scale = 1;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("batch", batch);
    a.size("rows", rows);
    a.size("keys", keys, 1);
    a.size("depth", depth);
    a.size("value_depth", value_depth);
    a.integers("q_batch", q_batch);
    a.integers("k_batch", k_batch);
    a.integers("v_batch", v_batch);
    a.integers("mask_batch", mask_batch);
    a.integers("y_batch", y_batch);
    a.integer("q_row", q_row);
    a.integer("k_row", k_row);
    a.integer("k_depth", k_depth);
    a.integer("v_row", v_row);
    a.integer("mask_row", mask_row);
    a.flag("mask_column", mask_column);
    a.integer("y_row", y_row);
    a.real("scale", scale);
  }

  uint64_t macs() const {
    size_t all = 0;
    return product({batch[0], batch[1], batch[2], batch[3], rows, keys, depth + value_depth}, &all) ? all : 0;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    const bool masked = step.in.size() == 4;
    if (!has(step, masked ? 4 : 3, 0)) return bad_step(step, "wrong number of operands");
    bool real = output(index, step).dtype == DType::kF32;
    for (const uint32_t id : step.in) real = real && index.tensors[id].dtype == DType::kF32;
    if (!real) return bad_step(step, "tensors must be float32");
    if (!of_batches(is_whole, output(index, step), batch, y_batch, {rows, y_row}, {value_depth, 1}))
      return bad_step(step, "its result does not fill its tensor");
    const auto reads = [&](size_t i, const std::array<int64_t, 4>& steps, Axis row, Axis column) {
      return of_batches(stays_inside, input(index, step, i), batch, steps, row, column);
    };
    const bool inside = reads(0, q_batch, {rows, q_row}, {depth, 1}) &&
                        reads(1, k_batch, {keys, k_row}, {depth, k_depth}) &&
                        reads(2, v_batch, {keys, v_row}, {value_depth, 1}) &&
                        (!masked || reads(3, mask_batch, {rows, mask_row}, {keys, mask_column}));
    if (!inside) return bad_step(step, "operands leave their tensors");
    size_t bytes = 0;  // of any machine with any number of threads, within reason
    return product({keys + kStrip, depth + value_depth + 1024, sizeof(float) * 4096}, &bytes)
               ? Status()
               : bad_step(step, "operands too large");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const auto floats = [&](size_t i) { return reinterpret_cast<const float*>(site.bytes(step.in[i])); };
    F32AttentionArgs args;
    args.batch = batch;
    args.q_batch = batch_steps(q_batch);
    args.k_batch = batch_steps(k_batch);
    args.v_batch = batch_steps(v_batch);
    args.mask_batch = batch_steps(mask_batch);
    args.y_batch = batch_steps(y_batch);
    args.rows = rows;
    args.keys = keys;
    args.depth = depth;
    args.value_depth = value_depth;
    args.q_row = static_cast<ptrdiff_t>(q_row);
    args.k_row = static_cast<ptrdiff_t>(k_row);
    args.k_depth = static_cast<ptrdiff_t>(k_depth);
    args.v_row = static_cast<ptrdiff_t>(v_row);
    args.mask_row = static_cast<ptrdiff_t>(mask_row);
    args.y_row = static_cast<ptrdiff_t>(y_row);
    args.mask_column = mask_column;
    args.scale = scale;
    args.q = floats(0);
    args.k = floats(1);
    args.v = floats(2);
    args.mask = step.in.size() == 4 ? floats(3) : nullptr;
    args.y = reinterpret_cast<float*>(site.bytes(step.out[0]));
    return {"attention", [&rt, args, scratch = site.scratch(attention_f32_scratch_bytes(rt, args))] {
              attention_f32(rt, args, *scratch);
            }};
  }
};

}  // namespace

StepType attention_f32_step() { return step_type<AttentionF32>(StepKind::kAttentionF32, "ATTENTION_F32"); }

}  // namespace ek
