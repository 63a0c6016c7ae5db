// MatMul of two float32 tensors, batch by batch, from any strides.
#include "program/steps/batches.h"

namespace ek {
namespace {

struct MatmulF32 {
  BatchSizes batch{};
  std::array<int64_t, 4> a_batch{}, b_batch{}, c_batch{};
  size_t rows = 0, k = 0, columns = 0;
  int64_t a_row = 0, a_k = 0, b_k = 0, b_column = 0, c_row = 0;
  float scale = 1;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("batch", batch);
    a.size("rows", rows);
    a.size("k", k);
    a.size("columns", columns);
    a.integers("a_batch", a_batch);
    a.integers("b_batch", b_batch);
    a.integers("c_batch", c_batch);
    a.integer("a_row", a_row);
    a.integer("a_k", a_k);
    a.integer("b_k", b_k);
    a.integer("b_column", b_column);
    a.integer("c_row", c_row);
    a.real("scale", scale);
  }

  uint64_t macs() const {
    size_t all = 0;
    return product({batch[0], batch[1], batch[2], batch[3], rows, k, columns}, &all) ? all : 0;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &a = input(index, step), &b = input(index, step, 1), &c = output(index, step);
    if (a.dtype != DType::kF32 || b.dtype != DType::kF32 || c.dtype != DType::kF32)
      return bad_step(step, "tensors must be float32");
    if (!of_batches(is_whole, c, batch, c_batch, {rows, c_row}, {columns, 1}))
      return bad_step(step, "its result does not fill its tensor");
    const bool inside = of_batches(stays_inside, a, batch, a_batch, {rows, a_row}, {k, a_k}) &&
                        of_batches(stays_inside, b, batch, b_batch, {k, b_k}, {columns, b_column});
    if (!inside) return bad_step(step, "operands leave their tensors");
    size_t bytes = 0;  // of any machine with any number of threads, within reason
    return product({k, columns + kStrip, sizeof(float) * 1024}, &bytes) &&
                   product({rows, k, sizeof(float) * 1024}, &bytes)
               ? Status()
               : bad_step(step, "operands too large");
  }

  F32MatmulArgs prepared(const Step& step, StepSite& site) const {
    F32MatmulArgs args;
    args.batch = batch;
    args.a_batch = batch_steps(a_batch);
    args.b_batch = batch_steps(b_batch);
    args.c_batch = batch_steps(c_batch);
    args.rows = rows;
    args.k = k;
    args.columns = columns;
    args.a_row = static_cast<ptrdiff_t>(a_row);
    args.a_k = static_cast<ptrdiff_t>(a_k);
    args.b_k = static_cast<ptrdiff_t>(b_k);
    args.b_column = static_cast<ptrdiff_t>(b_column);
    args.c_row = static_cast<ptrdiff_t>(c_row);
    args.scale = scale;
    args.a = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.b = reinterpret_cast<const float*>(site.bytes(step.in[1]));
    args.c = reinterpret_cast<float*>(site.bytes(step.out[0]));
    return args;
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const F32MatmulArgs args = prepared(step, site);
    return {"float", [&rt, args, scratch = site.scratch(matmul_f32_scratch_bytes(rt, args))] {
              matmul_f32(rt, args, *scratch);
            }};
  }
};

}  // namespace

StepType matmul_f32_step() { return step_type<MatmulF32>(StepKind::kMatmulF32, "MATMUL_F32"); }

}  // namespace ek
