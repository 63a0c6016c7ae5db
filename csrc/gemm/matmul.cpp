#include "gemm/matmul.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLineBytes = 64;
/// So many products and more for each thread are shared out whole; fewer are cut into blocks.
constexpr size_t kTasksPerThread = 2;

/// Packed B, and where its accumulators start.
struct Slot {
  explicit Slot(const MatmulArgs& args) : shape{args.columns, 1, args.k} {
    packed = round_up(shape.colsum_offset() + shape.padded_n() * sizeof(int32_t), kLineBytes);
    bytes = packed + round_up(shape.padded_n() * sizeof(int32_t), kLineBytes);
  }

  PackedShape shape;
  size_t packed, bytes;
};

GemmArgs product_of(const MatmulArgs& args, const Slot& slot, size_t item, const uint8_t* packed) {
  GemmArgs product;
  product.m = args.rows;
  product.a = args.a + item * args.rows * args.k;
  product.lda = args.k;
  product.a_sign = args.a_q.sign;
  product.b = {slot.shape, packed};
  product.epilogue = args.epilogue;
  product.path = args.path;
  product.ldc = out_bytes(args.epilogue, args.columns);
  product.c = args.c + item * args.rows * product.ldc;
  return product;
}

void multiply(const Runtime& rt, const MatmulArgs& args, const Slot& slot, size_t item, uint8_t* scratch) {
  const uint8_t* const b = args.b + item * args.k * args.columns;
  int32_t* const sums = reinterpret_cast<int32_t*>(scratch + slot.shape.colsum_offset());
  rt.kernels->pack_rows(b, args.k, args.columns, scratch, sums);
  int32_t* const init = reinterpret_cast<int32_t*>(scratch + slot.packed);
  make_init(*rt.kernels, args.a_q.sign, args.a_q.zero_point, sums, nullptr, args.columns, init);
  GemmArgs product = product_of(args, slot, item, scratch);
  product.init = init;
  gemm(rt, product);
}

bool shares_products(const Runtime& rt, const MatmulArgs& args) {
  return rt.threads > 1 && args.batch >= kTasksPerThread * static_cast<size_t>(rt.threads);
}

size_t tasks_of(const Runtime& rt, const MatmulArgs& args) {
  return shares_products(rt, args) ? kTasksPerThread * static_cast<size_t>(rt.threads) : 1;
}

}  // namespace

size_t matmul_scratch_bytes(const Runtime& rt, const MatmulArgs& args) { return tasks_of(rt, args) * Slot(args).bytes; }

const char* matmul_path(const Runtime& rt, const MatmulArgs& args) {
  const Slot slot(args);
  return gemm_path(rt, product_of(args, slot, 0, nullptr));
}

std::vector<const char*> matmul_choices(const Runtime& rt, const MatmulArgs& args) {
  return gemm_choices(rt, product_of(args, Slot(args), 0, nullptr));
}

void matmul(const Runtime& rt, const MatmulArgs& args, uint8_t* scratch) {
  const Slot slot(args);
  const size_t tasks = tasks_of(rt, args);
  if (tasks == 1) {
    for (size_t item = 0; item < args.batch; ++item) multiply(rt, args, slot, item, scratch);
    return;
  }
  const double macs = static_cast<double>(args.batch * args.rows) * static_cast<double>(args.k * args.columns);
  const Runtime alone{rt.kernels, 1};
  const size_t per_task = ceil_div(args.batch, tasks);
  parallel_for(tasks, worth_a_thread(macs / macs_per_us(rt.kernels->isa)) ? rt.threads : 1, [&](size_t task) {
    const size_t end = std::min(args.batch, (task + 1) * per_task);
    for (size_t item = task * per_task; item < end; ++item) {
      multiply(alone, args, slot, item, scratch + task * slot.bytes);
    }
  });
}

}  // namespace ek
