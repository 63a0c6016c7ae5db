// What the gates of a recurrent layer make of their products.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

enum class GateFunction : uint8_t { kSigmoid, kTanh, kRelu };
inline constexpr GateFunction kLastGateFunction = GateFunction::kRelu;

/// The functions of a cell as ONNX orders them: f, g, h of an LSTM; f, g of a GRU; f of an RNN. What goes into one is
/// clipped to [-clip, clip] first; an infinite clip is none.
struct GateFunctions {
  GateFunction f, g, h;
  float clip;
};

/// Rows of the gates of one unit of the batch, each gate `n` floats, a multiple of kStrip: the product with the input
/// and the product with the state before, each with its bias. A gate is a function of their sum.
struct GateRows {
  const float* x;
  const float* h;
  size_t n;
};

struct RecurrentKernels {
  // i, o, f and c: c = f * c + i * c', h = o * h(c). Products and sums are rounded each.
  EK_KERNEL void (*lstm_gates)(const GateRows& gates, const GateFunctions& functions, float* c, float* h);
  // The first two gates of a GRU: z, and r, or r * h where it multiplies the state and not its product.
  EK_KERNEL void (*gru_reset)(const GateRows& gates, const GateFunctions& functions, const float* h, bool times_h,
                              float* z, float* r);
  // The third one: h = (1 - z) * g(x + r * h') + z * h, where r is null without the factor.
  EK_KERNEL void (*gru_update)(const GateRows& gate, const GateFunctions& functions, const float* r, const float* z,
                               float* h);
  // h = f(x + h').
  EK_KERNEL void (*rnn_gate)(const GateRows& gate, const GateFunctions& functions, float* h);
};

#define EK_RECURRENT_KERNELS(X) X(lstm_gates) X(gru_reset) X(gru_update) X(rnn_gate)

}  // namespace ek
