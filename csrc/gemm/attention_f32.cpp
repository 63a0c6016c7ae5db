// Attention in blocks of rows: the scores of a block, their exponentials and what they mix stay in the L2; the matrix
// of all scores is never there.
#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "cpu/machine.h"
#include "gemm/gemm_f32.h"
#include "gemm/matmul_f32.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Rows of a block: at most so many, and as few as keep their scores this small.
constexpr size_t kMostRows = 96, kScoreFloats = 64 * 1024;
/// What the exponential of a score costs, in multiply-adds.
constexpr double kExpMacs = 32;
constexpr size_t kTasksPerThread = 4;

struct Plan {
  size_t block, blocks;  // rows of a block, blocks of a product's rows
  size_t tasks;
  int threads;
  size_t ld;  // floats from row to row of scores
  size_t key_floats, value_floats, score_floats;

  size_t floats() const { return key_floats + value_floats + score_floats; }
};

Plan make_plan(const Runtime& rt, const F32AttentionArgs& args) {
  const size_t height = rt.kernels->f32_tile_rows, count = batches(args.batch);
  Plan plan{};
  plan.ld = round_up(args.keys, kStrip) + kStrip;  // off a power of two, whose rows share the sets of an L1
  const size_t few = kScoreFloats / plan.ld / height * height;
  plan.block = std::min(std::clamp<size_t>(few, height, kMostRows), std::max<size_t>(1, args.rows));
  plan.blocks = ceil_div(args.rows, plan.block);
  const double scores = static_cast<double>(count) * static_cast<double>(args.rows) * static_cast<double>(args.keys);
  const double macs = scores * (static_cast<double>(args.depth + args.value_depth) + kExpMacs);
  plan.threads = worth_a_thread(macs / f32_macs_per_us(rt.kernels->isa)) ? rt.threads : 1;
  const size_t most = plan.threads == 1 ? 1 : kTasksPerThread * static_cast<size_t>(plan.threads);
  plan.tasks = std::min(count * plan.blocks, most);
  plan.key_floats = args.depth * round_up(args.keys, kStrip);
  plan.value_floats = args.keys * round_up(args.value_depth, kStrip);
  plan.score_floats = plan.ld * plan.block;
  return plan;
}

/// The scores of `rows` rows and what they mix, on packed keys and values.
void attend_block(const Kernels& kernels, const F32AttentionArgs& args, const Plan& plan, const float* q,
                  const float* mask, float* y, size_t rows, const float* keys, const float* values, float* scores) {
  const Runtime one{&kernels, 1};
  F32Args product;
  product.epilogue.kind = OutKind::kFloat32;
  product.epilogue.lo = -HUGE_VALF;
  product.epilogue.hi = HUGE_VALF;
  product.m = rows;
  product.a = q;
  product.lda = static_cast<size_t>(args.q_row);
  product.b = {args.depth, args.keys, keys};
  product.c = scores;
  product.ldc = plan.ld * sizeof(float);
  gemm_f32(one, product);
  float sums[kMostRows];
  for (size_t r = 0; r < rows; ++r) {
    const float* const added = mask == nullptr ? nullptr : mask + static_cast<ptrdiff_t>(r) * args.mask_row;
    sums[r] = kernels.exp_scores({scores + r * plan.ld, args.keys, args.scale, added, args.mask_column});
  }
  product.a = scores;
  product.lda = plan.ld;
  product.b = {args.keys, args.value_depth, values};
  product.c = y;
  product.ldc = static_cast<size_t>(args.y_row) * sizeof(float);
  gemm_f32(one, product);
  for (size_t r = 0; r < rows; ++r) {
    kernels.divide_f32(y + static_cast<ptrdiff_t>(r) * args.y_row, args.value_depth, sums[r]);
  }
}

}  // namespace

size_t attention_f32_scratch_bytes(const Runtime& rt, const F32AttentionArgs& args) {
  const Plan plan = make_plan(rt, args);
  return plan.tasks * plan.floats() * sizeof(float);
}

void attention_f32(const Runtime& rt, const F32AttentionArgs& args, uint8_t* scratch) {
  const Plan plan = make_plan(rt, args);
  const size_t units = batches(args.batch) * plan.blocks;
  parallel_for(plan.tasks, plan.threads, [&](size_t task) {
    const Runtime one{rt.kernels, 1};
    float* const keys = reinterpret_cast<float*>(scratch) + task * plan.floats();
    float *const values = keys + plan.key_floats, *const scores = values + plan.value_floats;
    const float *keys_of = nullptr, *values_of = nullptr;  // what is packed
    for (size_t unit = units * task / plan.tasks; unit < units * (task + 1) / plan.tasks; ++unit) {
      const size_t number = unit / plan.blocks, row = unit % plan.blocks * plan.block;
      const auto at = [&](const float* base, const BatchSteps& steps, ptrdiff_t row_step) {
        return base + batch_at(args.batch, steps, number) + static_cast<ptrdiff_t>(row) * row_step;
      };
      const float *const k = at(args.k, args.k_batch, 0), *const v = at(args.v, args.v_batch, 0);
      if (k != keys_of) pack_f32(one, args.depth, args.keys, k, args.k_depth, args.k_row, keys);
      if (v != values_of) pack_f32(one, args.keys, args.value_depth, v, args.v_row, 1, values);
      keys_of = k;
      values_of = v;
      const float* const mask = args.mask == nullptr ? nullptr : at(args.mask, args.mask_batch, args.mask_row);
      float* const y = args.y + batch_at(args.batch, args.y_batch, number) + static_cast<ptrdiff_t>(row) * args.y_row;
      attend_block(*rt.kernels, args, plan, at(args.q, args.q_batch, args.q_row), mask, y,
                   std::min(plan.block, args.rows - row), keys, values, scores);
    }
  });
}

}  // namespace ek
