// LSTM, GRU and RNN on float32, in one direction or both; and the same by int8 weights, where rows of the input and of
// the state are quantized as they come.
//
//   in x [lengths] [h0] [c0] | blobs: packed weights of the input, those of the state, bias f32, and of int8 weights
//   the scale of each row f32, where the bias has its own
#include "recurrent/recurrent.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "gemm/linear.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

constexpr size_t kLastCell = static_cast<size_t>(Cell::kRnn);

template <bool kDynamic>
struct Recurrent {
  size_t cell = 0;
  RecurrentArgs args;
  bool has_lengths = false, has_h0 = false, has_c0 = false;
  std::array<size_t, 6> activations{};  // three a direction
  float clip = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("cell", cell);
    a.size("steps", args.steps, 1);
    a.size("batch", args.batch, 1);
    a.size("inputs", args.inputs, 1);
    a.size("hidden", args.hidden, 1);
    a.size("directions", args.directions, 1);
    a.flag("reverse", args.reverse);
    a.flag("linear_before_reset", args.linear_before_reset);
    a.flag("has_lengths", has_lengths);
    a.flag("has_h0", has_h0);
    a.flag("has_c0", has_c0);
    a.sizes("activations", activations);
    a.real("clip", clip);
  }

  /// What the two lists say, once they are read.
  RecurrentArgs all() const {
    RecurrentArgs whole = args;
    whole.cell = static_cast<Cell>(cell);
    whole.dynamic = kDynamic;
    for (size_t d = 0; d < 2; ++d) {
      const auto function = [&](size_t i) { return static_cast<GateFunction>(activations[3 * d + i]); };
      whole.functions[d] = {function(0), function(1), function(2), clip == 0 ? HUGE_VALF : clip};
    }
    return whole;
  }

  uint64_t macs() const { return cell <= kLastCell ? recurrent_macs(all()) : 0; }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (cell > kLastCell || args.directions > 2 || !(clip >= 0)) return bad_step(step, "damaged arguments");
    for (const size_t function : activations) {
      if (function > static_cast<size_t>(kLastGateFunction)) return bad_step(step, "damaged activations");
    }
    const RecurrentArgs whole = all();
    const bool lstm = whole.cell == Cell::kLstm;
    if (has_c0 && !lstm) return bad_step(step, "damaged arguments");
    if (!has(step, size_t{1} + has_lengths + has_h0 + has_c0, kDynamic ? 4 : 3))
      return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    const size_t states = args.steps + 1 + (lstm ? 1 : 0);
    bool fits = x.dtype == DType::kF32 && y.dtype == DType::kF32 && holds(x, {args.steps, args.batch, args.inputs}) &&
                holds(y, {states, args.directions, args.batch, args.hidden});
    size_t at = 1;
    if (has_lengths) {
      const TensorDef& lengths = input(index, step, at++);
      fits = fits && lengths.dtype == DType::kI32 && holds(lengths, {args.batch});
    }
    for (; at < step.in.size(); ++at) {
      const TensorDef& state = input(index, step, at);
      fits = fits && state.dtype == DType::kF32 && holds(state, {args.directions, args.batch, args.hidden});
    }
    if (!fits) return bad_step(step, "tensors do not match its sizes");
    if (kDynamic && std::max(args.inputs, args.hidden) > kMaxRowDepth) return bad_step(step, "sums can pass 2^31");
    const size_t width = gates_of(whole.cell) * round_up(args.hidden, kStrip);
    size_t w = 0, r = 0, bias = 0, scratch = 0;
    bool sizes = product({args.directions, 2, width, sizeof(float)}, &bias) && recurrent_scratch_bytes(whole, &scratch);
    if (kDynamic) {
      sizes = sizes && recurrent_codes_bytes(whole, &w, &r);
    } else {
      sizes = sizes && product({args.directions, args.inputs, width, sizeof(float)}, &w) &&
              product({args.directions, args.hidden, width, sizeof(float)}, &r);
    }
    const bool blobs = sizes && blob_is(index, step, 0, w) && blob_is(index, step, 1, r) &&
                       blob_is(index, step, 2, bias) && (!kDynamic || blob_is(index, step, 3, bias));
    return blobs ? Status() : bad_step(step, "weights do not match its sizes");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    RecurrentArgs whole = all();
    size_t bytes = 0, at = 1;
    static_cast<void>(recurrent_scratch_bytes(whole, &bytes));
    const auto floats = [&](uint32_t id) { return reinterpret_cast<float*>(site.bytes(id)); };
    whole.x = floats(step.in[0]);
    const auto* const lengths = has_lengths ? reinterpret_cast<const int32_t*>(site.bytes(step.in[at++])) : nullptr;
    int32_t* const kept = has_lengths ? site.keep(args.batch) : nullptr;
    whole.lengths = kept;
    if (has_h0) whole.h0 = floats(step.in[at++]);
    if (has_c0) whole.c0 = floats(step.in[at++]);
    whole.y = floats(step.out[0]);
    std::array<const uint8_t* const*, kDynamic ? 4 : 3> blobs{};
    for (size_t i = 0; i < blobs.size(); ++i) blobs[i] = site.blob(step.blobs[i]);
    if constexpr (kDynamic) {
      whole.codes.w = *blobs[0];
      whole.codes.r = *blobs[1];
      int32_t* const init = site.keep(args.directions * 2 * gates_of(whole.cell) * round_up(args.hidden, kStrip));
      recurrent_init(*rt.kernels, whole, init);
      whole.codes.init = init;
    }
    return {"recurrent", [&rt, whole, lengths, kept, blobs, scratch = site.scratch(bytes), step = &step,
                          fault = site.fault()]() mutable {
              const auto floats_of = [&](size_t i) { return reinterpret_cast<const float*>(*blobs[i]); };
              whole.bias = floats_of(2);
              if constexpr (kDynamic) {
                whole.codes.w = *blobs[0];
                whole.codes.r = *blobs[1];
                whole.codes.scale = floats_of(3);
              } else {
                whole.w = floats_of(0);
                whole.r = floats_of(1);
              }
              const auto most = static_cast<int32_t>(whole.steps);
              for (size_t b = 0; kept != nullptr && b < whole.batch; ++b) {
                if (lengths[b] < 0 || lengths[b] > most) fault->note(step, lengths[b], 0, most);
                kept[b] = lengths[b] < 0 || lengths[b] > most ? 0 : lengths[b];
              }
              recurrent(rt, whole, *scratch);
            }};
  }
};

}  // namespace

StepType recurrent_step() { return step_type<Recurrent<false>>(StepKind::kRecurrent, "RECURRENT"); }
StepType recurrent_dynamic_step() {
  return step_type<Recurrent<true>>(StepKind::kRecurrentDynamic, "RECURRENT_DYNAMIC");
}

}  // namespace ek
