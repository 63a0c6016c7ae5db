#include "gemm/workspace.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"

namespace ek {
namespace {

constexpr size_t kFirstBytes = 16 << 10;  // enough for most small products

uint8_t* grow(AlignedBuffer* buffer, size_t bytes) {
  if (buffer->size() < bytes) *buffer = AlignedBuffer(std::max(kFirstBytes, bytes));
  return buffer->data();
}

}  // namespace

thread_local std::unique_ptr<Workspace::Kept> Workspace::t_kept;

Workspace::Workspace(const Kernels& kernels, GemmArgs* args, int32_t a_zero_point, const int32_t* bias)
    : home_(t_kept), kept_(std::move(home_)) {
  if (kept_ == nullptr) kept_ = std::make_unique<Kept>();
  const PackedShape& shape = args->b.shape;
  int32_t* const init = reinterpret_cast<int32_t*>(grow(&kept_->init, shape.padded_n() * sizeof(int32_t)));
  make_init(kernels, args->a_sign, a_zero_point, args->b.colsum(), bias, shape.n, init);
  args->init = init;
}

Workspace::~Workspace() { home_ = std::move(kept_); }

const float* Workspace::padded(int slot, const float* values, size_t n) {
  if (values == nullptr || n % kStrip == 0) return values;
  const size_t bytes = round_up(n, kStrip) * sizeof(float);
  uint8_t* const copy = grow(&kept_->columns[slot], bytes);
  std::memcpy(copy, values, n * sizeof(float));
  std::memset(copy + n * sizeof(float), 0, bytes - n * sizeof(float));
  return reinterpret_cast<const float*>(copy);
}

}  // namespace ek
