// Gates of LSTM, GRU and RNN on float32, lanes are hidden units.
//
// Bits       sums and products as kernels/recurrent.h writes them, each rounded; sigmoid and tanh are those of
//            functions.inl: the same on every ISA.
// NaN        one that goes in comes out; clipping keeps it.
#pragma once

#include "kernels/functions.inl"
#include "kernels/recurrent.h"

namespace ek {
namespace {

EK_INLINE F32 gate_function(GateFunction function, F32 x) {
  switch (function) {
    case GateFunction::kSigmoid:
      return sigmoid_f32(x);
    case GateFunction::kTanh:
      return tanh_f32(x);
    default:
      return max_f32(set1_f32(0.0f), x);
  }
}

/// A gate of the lanes from i on, `x` and `h` its two products.
EK_INLINE F32 gate_of(GateFunction function, float clip, F32 x, F32 h) {
  const F32 sum = add_f32(x, h);
  return gate_function(function, min_f32(set1_f32(clip), max_f32(set1_f32(-clip), sum)));
}
EK_INLINE F32 gate_of(GateFunction function, float clip, const GateRows& rows, size_t gate, size_t i) {
  const size_t at = gate * rows.n + i;
  return gate_of(function, clip, load_f32(rows.x + at), load_f32(rows.h + at));
}

void lstm_gates(const GateRows& rows, const GateFunctions& of, float* c, float* h) {
  for (size_t i = 0; i < rows.n; i += kStrip) {
    const F32 in = gate_of(of.f, of.clip, rows, 0, i), out = gate_of(of.f, of.clip, rows, 1, i);
    const F32 forget = gate_of(of.f, of.clip, rows, 2, i), fresh = gate_of(of.g, of.clip, rows, 3, i);
    const F32 cell = add_f32(mul_f32(forget, load_f32(c + i)), mul_f32(in, fresh));
    store_f32(c + i, cell);
    store_f32(h + i, mul_f32(out, gate_function(of.h, cell)));
  }
}

void gru_reset(const GateRows& rows, const GateFunctions& of, const float* h, bool times_h, float* z, float* r) {
  for (size_t i = 0; i < rows.n; i += kStrip) {
    store_f32(z + i, gate_of(of.f, of.clip, rows, 0, i));
    const F32 reset = gate_of(of.f, of.clip, rows, 1, i);
    store_f32(r + i, times_h ? mul_f32(reset, load_f32(h + i)) : reset);
  }
}

void gru_update(const GateRows& rows, const GateFunctions& of, const float* r, const float* z, float* h) {
  const F32 one = set1_f32(1.0f);
  for (size_t i = 0; i < rows.n; i += kStrip) {
    F32 state = load_f32(rows.h + i);
    if (r != nullptr) state = mul_f32(load_f32(r + i), state);
    const F32 fresh = gate_of(of.g, of.clip, load_f32(rows.x + i), state), keep = load_f32(z + i);
    store_f32(h + i, add_f32(mul_f32(sub_f32(one, keep), fresh), mul_f32(keep, load_f32(h + i))));
  }
}

void rnn_gate(const GateRows& rows, const GateFunctions& of, float* h) {
  for (size_t i = 0; i < rows.n; i += kStrip) store_f32(h + i, gate_of(of.f, of.clip, rows, 0, i));
}

}  // namespace
}  // namespace ek
