// Batches of float products. B is packed first where it is read often enough, or does not lie in rows; small products
// go to a thread each, large ones are shared out.
#include "gemm/matmul_f32.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "cpu/machine.h"
#include "gemm/gemm_f32.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLineFloats = 16;
/// Products for each thread from which on a thread takes them whole.
constexpr size_t kWholePerThread = 2;

/// How a product is prepared, and how much room for it each of `slots` takes.
struct Plan {
  bool copies_a, packs_b, whole;  // whole: each product by one thread
  size_t slots, a_floats, b_floats, gemm_floats;

  size_t floats() const { return a_floats + b_floats + gemm_floats; }
};

Plan make_plan(const Runtime& rt, const F32MatmulArgs& args) {
  const size_t height = rt.kernels->f32_tile_rows, count = batches(args.batch);
  Plan plan{};
  plan.copies_a = args.a_k != 1;
  plan.packs_b = args.b_column != 1 || args.rows > 2 * height;
  const double macs = static_cast<double>(args.rows) * static_cast<double>(args.k) * static_cast<double>(args.columns);
  const double us = macs * static_cast<double>(count) / f32_macs_per_us(rt.kernels->isa);
  const auto threads = static_cast<size_t>(worth_a_thread(us) ? rt.threads : 1);
  plan.whole = threads == 1 || count >= kWholePerThread * threads;
  plan.slots = plan.whole ? threads : 1;
  plan.a_floats = plan.copies_a ? round_up(args.rows * args.k, kLineFloats) : 0;
  const size_t packed = plan.packs_b ? args.columns : args.columns % kStrip;  // of rows where they lie, the tail
  plan.b_floats = round_up(packed, kStrip) * args.k;
  const Runtime its_own{rt.kernels, plan.whole ? 1 : rt.threads};
  plan.gemm_floats = f32_scratch_floats(its_own, args.rows, args.k, args.columns);
  return plan;
}

/// The products [begin, end), on the threads of `rt`.
void run_products(const Runtime& rt, const F32MatmulArgs& args, const Plan& plan, size_t begin, size_t end,
                  float* slot) {
  float *const dense = slot, *const packed = slot + plan.a_floats, *const room = packed + plan.b_floats;
  F32Args product;
  product.m = args.rows;
  product.b = {args.k, args.columns, packed};
  product.scale = args.scale;
  product.epilogue.kind = OutKind::kFloat32;
  product.epilogue.lo = -HUGE_VALF;
  product.epilogue.hi = HUGE_VALF;
  product.ldc = static_cast<size_t>(args.c_row) * sizeof(float);
  const size_t in_place = args.columns - args.columns % kStrip;
  const float* packed_from = nullptr;
  for (size_t number = begin; number < end; ++number) {
    const float* const a = args.a + batch_at(args.batch, args.a_batch, number);
    const float* const b = args.b + batch_at(args.batch, args.b_batch, number);
    product.a = a;
    product.lda = static_cast<size_t>(args.a_row);
    if (plan.copies_a) {
      product.a = dense;
      product.lda = args.k;
      for (size_t row = 0; row < args.rows; ++row) {
        const float* from = a + static_cast<ptrdiff_t>(row) * args.a_row;
        for (size_t i = 0; i < args.k; ++i) dense[row * args.k + i] = from[static_cast<ptrdiff_t>(i) * args.a_k];
      }
    }
    if (plan.packs_b) {
      if (b != packed_from) pack_f32(rt, args.k, args.columns, b, args.b_k, args.b_column, packed);
    } else {
      product.b.data = b;
      product.b.line = static_cast<size_t>(args.b_k);
      if (in_place != args.columns) {
        product.b.tail = packed;
        if (b != packed_from) pack_f32(rt, args.k, args.columns - in_place, b + in_place, args.b_k, 1, packed);
      }
    }
    packed_from = b;
    product.c = args.c + batch_at(args.batch, args.c_batch, number);
    gemm_f32(rt, product, plan.gemm_floats == 0 ? nullptr : room);
  }
}

}  // namespace

size_t matmul_f32_scratch_bytes(const Runtime& rt, const F32MatmulArgs& args) {
  const Plan plan = make_plan(rt, args);
  return plan.slots * plan.floats() * sizeof(float);
}

void matmul_f32(const Runtime& rt, const F32MatmulArgs& args, uint8_t* scratch) {
  const size_t count = batches(args.batch);
  if (count == 0 || args.rows == 0 || args.columns == 0) return;
  const Plan plan = make_plan(rt, args);
  auto* const slots = reinterpret_cast<float*>(scratch);
  if (!plan.whole) return run_products(rt, args, plan, 0, count, slots);
  const Runtime one{rt.kernels, 1};
  parallel_for(plan.slots, static_cast<int>(plan.slots), [&](size_t i) {
    run_products(one, args, plan, count * i / plan.slots, count * (i + 1) / plan.slots, slots + i * plan.floats());
  });
}

}  // namespace ek
