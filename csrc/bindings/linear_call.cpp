#include "bindings/linear_call.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/fp_env.h"
#include "bindings/fastcall.h"
#include "bindings/gil.h"
#include "gemm/gemm4.h"
#include "gemm/linear.h"

namespace ek {
namespace {

/// Where a real bound lies on the scale of an 8-bit result, counted from its zero point.
float relative(float real, const QuantParams& q) {
  const int32_t lo = q.sign == Sign::kU8 ? 0 : -128;
  const float low = static_cast<float>(lo - q.zero_point), high = low + 255.0f;
  return std::min(std::max(std::isinf(real) ? real : std::nearbyint(real / q.scale), low), high);
}

/// The bias as the accumulator counts.
void fold_bias(const Kernels& kernels, const float* bias, const PackedWeights& w, float x_scale, int32_t* counts) {
  const size_t wrong = kernels.fold_bias(bias, w.scale.data(), w.shape.n, x_scale, counts);
  if (wrong == w.shape.n) return;
  fail(Code::kValue, "linear: bias[" + std::to_string(wrong) + "] is " + std::to_string(bias[wrong]) +
                         ", too large for an int32 accumulator at scale x_scale * w_scale");
}

size_t column_bytes(const PackedShape& shape) { return round_up(shape.padded_n() * sizeof(float), 64); }

/// Other Python threads run while this object lives, where the product takes long enough.
class WithoutGilIfLong {
 public:
  WithoutGilIfLong(size_t m, const PackedShape& shape) {
    const double macs = static_cast<double>(m) * static_cast<double>(shape.n) * static_cast<double>(shape.k_per_tap);
    if (macs >= kReleaseMacs) released_.emplace();
  }

 private:
  std::optional<WithoutGil> released_;
};

void run_dynamic(const Runtime& rt, LinearArgs args) {
  const size_t init_bytes = column_bytes(args.gemm.b.shape);
  ThreadRoom room(init_bytes + linear_scratch_bytes(rt, args));
  int32_t* const init = reinterpret_cast<int32_t*>(room.data());
  make_symmetric_init(*rt.kernels, args.gemm.b, init);
  args.gemm.init = init;
  const WithoutGilIfLong released(args.gemm.m, args.gemm.b.shape);
  linear(rt, args, room.data() + init_bytes);
}

void run_groups(const Runtime& rt, const LinearArgs& args, const PackedWeights& w, bool scale_per_row) {
  const GemmArgs& g = args.gemm;
  const Gemm4Args args4{g.m, args.x, args.ldx, scale_per_row, {w.shape4, w.bytes(), w.unit}, g.c, g.ldc, g.epilogue};
  size_t bytes = 0;
  if (!gemm4_scratch_bytes(args4, &bytes)) fail(Code::kValue, "linear: x is too large");
  ThreadRoom room(bytes);
  const WithoutGilIfLong released(g.m, w.shape);
  gemm4(rt, args4, room.data());
}

void run_static(const Runtime& rt, GemmArgs args, const PackedWeights& w, const LinearOptions& o) {
  const size_t bytes = column_bytes(w.shape);
  ThreadRoom room(2 * bytes);
  float* const multiplier = reinterpret_cast<float*>(room.data());
  const bool requantized = args.epilogue.kind == OutKind::kQuantized;
  rt.kernels->fold_scales(w.scale.data(), w.shape.padded_n(), *o.x_scale, requantized ? *o.y_scale : 1.0f, multiplier);
  const int32_t* bias = nullptr;
  if (requantized && args.epilogue.bias != nullptr) {
    int32_t* const counts = reinterpret_cast<int32_t*>(room.data() + bytes);
    fold_bias(*rt.kernels, args.epilogue.bias, w, *o.x_scale, counts);
    bias = counts;
  }
  args.epilogue.multiplier = multiplier;
  const WithoutGilIfLong released(args.m, w.shape);
  run_gemm(rt, args, o.x_zero_point, bias);
}

}  // namespace

void run_linear(const LinearCall& call, const LinearOptions& o) {
  const FpGuard guard;
  const PackedWeights& w = *call.w;
  LinearArgs args{static_cast<const float*>(call.x), call.ldx / sizeof(float), {}};
  GemmArgs& g = args.gemm;
  g.m = call.m;
  if (w.bits() == 8) g.b = w.view();
  Epilogue& e = g.epilogue;
  e.kind = o.kind;
  e.activation = o.activation;
  e.lo = o.lo;
  e.hi = o.hi;
  e.multiplier = w.scale.data();
  e.bias = call.bias;
  e.addend = call.residual;
  e.addend_ld = call.residual_ld;
  if (o.kind == OutKind::kQuantized) {
    e.out = {*o.y_scale, o.y_zero_point, o.y_sign};
    if (e.activation != Activation::kClamp || e.addend != nullptr) {
      e.kind = OutKind::kRealQuantized;
    } else {
      e.lo = relative(o.lo, e.out);
      e.hi = relative(o.hi, e.out);
    }
  }
  g.c = call.y;
  g.ldc = out_bytes(e, w.shape.n);
  if (w.grouped()) return run_groups(call.rt, args, w, o.scale_per_row);
  if (!o.x_scale) return run_dynamic(call.rt, args);
  g.a = static_cast<const uint8_t*>(call.x);
  g.lda = call.ldx;
  g.a_sign = call.x_sign;
  run_static(call.rt, g, w, o);
}

}  // namespace ek
