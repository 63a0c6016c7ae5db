#include "recurrent/recurrent.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/elementwise.h"
#include "gemm/gemm_f32.h"
#include "gemm/linear.h"
#include "gemm/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Products of one time step that are worth waking threads for: two directions then take turns, else a thread each.
constexpr double kWakesPerStep = 8;

struct Sizes {
  size_t padded, width;  // of a gate, of all gates

  explicit Sizes(const RecurrentArgs& args)
      : padded(round_up(args.hidden, kStrip)), width(gates_of(args.cell) * padded) {}
};

/// Packed columns of one direction: those of W, those of R that a state is multiplied with at once, and the rest.
struct Shapes {
  PackedShape w, at_once, rest;

  explicit Shapes(const RecurrentArgs& args) {
    const Sizes sizes(args);
    const size_t first = gates_at_once(args) * sizes.padded;
    w = {sizes.width, 1, args.inputs};
    at_once = {first, 1, args.hidden};
    rest = {sizes.width - first, 1, args.hidden};
  }

  size_t w_bytes() const { return bytes_of(w); }
  size_t at_once_bytes() const { return bytes_of(at_once); }
  size_t r_bytes() const { return at_once_bytes() + bytes_of(rest); }

 private:
  /// Of a shape that is known to fit.
  static size_t bytes_of(const PackedShape& shape) {
    size_t bytes = 0;
    static_cast<void>(shape.bytes(&bytes));
    return shape.n == 0 ? 0 : bytes;
  }
};

/// A direction's part of the scratch, in floats. What is quantized lies behind both: rows of x, then their states.
struct Rooms {
  size_t x, h_product, state, c, z, r, all;
};

bool rooms_of(const RecurrentArgs& args, Rooms* rooms) {
  const Sizes sizes(args);
  size_t rows = 0, at = 0;
  bool fits = checked_mul(args.steps, args.batch, &rows);
  const auto take = [&](size_t count, size_t width, size_t* room) {
    size_t floats = 0;
    *room = at;
    fits = fits && checked_mul(count, width, &floats) && checked_add(at, floats, &at);
  };
  take(rows, sizes.width, &rooms->x);
  take(args.batch, sizes.width, &rooms->h_product);
  for (size_t* const room : {&rooms->state, &rooms->c, &rooms->z, &rooms->r}) take(args.batch, sizes.padded, room);
  rooms->all = at;
  return fits;
}

/// y = x * weights + bias, rows of the weights' width.
void multiply(const Runtime& rt, const float* x, size_t rows, size_t ldx, const F32Weights& weights, const float* bias,
              float* y, size_t ldy) {
  F32Args args;
  args.m = rows;
  args.a = x;
  args.lda = ldx;
  args.b = weights;
  args.c = y;
  args.ldc = ldy * sizeof(float);
  args.epilogue.kind = OutKind::kFloat32;
  args.epilogue.lo = -HUGE_VALF;
  args.epilogue.hi = HUGE_VALF;
  args.epilogue.bias = bias;
  gemm_f32(rt, args);
}

/// The same of rows that were quantized on their way: all columns of packed weights.
void multiply_codes(const Runtime& rt, const QuantizedRows& rows, size_t count, const PackedView& weights,
                    const float* scale, const int32_t* init, const float* bias, float* y, size_t ldy) {
  GemmArgs args;
  args.m = count;
  args.b = weights;
  args.init = init;
  args.c = y;
  args.ldc = ldy * sizeof(float);
  args.epilogue.kind = OutKind::kFloat32;
  args.epilogue.lo = -HUGE_VALF;
  args.epilogue.hi = HUGE_VALF;
  args.epilogue.multiplier = scale;
  args.epilogue.bias = bias;
  multiply_rows(rt, rows, args);
}

QuantizedRows quantize(const Runtime& rt, const float* x, size_t rows, size_t k, size_t ldx, uint8_t* scratch) {
  const QuantizedRows made = quantized_rows_in(scratch, rows, k);
  dynamic_quantize_rows(rt, x, rows, k, ldx, rt.kernels->native_sign, made.codes, made.stride, made.scale);
  return made;
}

/// Rows of `hidden` floats to rows of `padded`, or zeros.
void fill_state(const RecurrentArgs& args, size_t direction, const float* from, float* to) {
  const size_t padded = Sizes(args).padded;
  std::memset(to, 0, args.batch * padded * sizeof(float));
  for (size_t b = 0; from != nullptr && b < args.batch; ++b) {
    std::memcpy(to + b * padded, from + (direction * args.batch + b) * args.hidden, args.hidden * sizeof(float));
  }
}

class Direction {
 public:
  Direction(const RecurrentArgs& args, size_t number, float* scratch)
      : args_(args), sizes_(args), shapes_(args), number_(number) {
    Rooms rooms{};
    static_cast<void>(rooms_of(args, &rooms));
    float* const mine = scratch + number * rooms.all;
    x_ = mine + rooms.x, h_product_ = mine + rooms.h_product, state_ = mine + rooms.state, c_ = mine + rooms.c;
    z_ = mine + rooms.z, r_ = mine + rooms.r;
    codes_ = quantized_rows(args, scratch) + quantized_rows_bytes(args.steps * args.batch, args.inputs) +
             number * quantized_rows_bytes(args.batch, args.hidden);
    constants_ = number * 2 * sizes_.width;
  }

  /// Where the quantized rows of x lie, the same for all directions.
  static uint8_t* quantized_rows(const RecurrentArgs& args, float* scratch) {
    Rooms rooms{};
    static_cast<void>(rooms_of(args, &rooms));
    return reinterpret_cast<uint8_t*>(scratch + args.directions * rooms.all);
  }

  /// `rows`: those of x, where they are quantized.
  void multiply_inputs(const Runtime& rt, const QuantizedRows* rows) const {
    const size_t count = args_.steps * args_.batch;
    if (rows != nullptr) {
      const PackedView w{shapes_.w, args_.codes.w + number_ * shapes_.w_bytes()};
      return multiply_codes(rt, *rows, count, w, args_.codes.scale + constants_, args_.codes.init + constants_, bias(),
                            x_, sizes_.width);
    }
    const F32Weights w{args_.inputs, sizes_.width, args_.w + number_ * args_.inputs * sizes_.width};
    multiply(rt, args_.x, count, args_.inputs, w, bias(), x_, sizes_.width);
  }

  void run(const Runtime& rt) const {
    fill_state(args_, number_, args_.h0, state_);
    fill_state(args_, number_, args_.c0, c_);
    const bool backwards = args_.directions == 2 ? number_ == 1 : args_.reverse;
    const bool resets_state = args_.cell == Cell::kGru && !args_.linear_before_reset;
    const size_t at_once = gates_at_once(args_);
    for (size_t step = 0; step < args_.steps; ++step) {
      multiply_state(rt, state_, 0, at_once);
      if (args_.cell == Cell::kGru) {
        for_each_row(step, backwards, [&](size_t b, size_t t) {
          const size_t at = b * sizes_.padded;
          rt.kernels->gru_reset(gates(b, t, 0), functions(), state_ + at, resets_state, z_ + at, r_ + at);
        });
        if (resets_state) multiply_state(rt, r_, 2, 1);
      }
      for_each_row(step, backwards, [&](size_t b, size_t t) { update(rt, b, t, resets_state); });
    }
    for (size_t b = 0; b < args_.batch; ++b) finish(b);
  }

 private:
  size_t length(size_t b) const {
    return args_.lengths == nullptr ? args_.steps : static_cast<size_t>(args_.lengths[b]);
  }
  const GateFunctions& functions() const { return args_.functions[number_]; }

  /// body(row of the batch, time) for those whose sequences are not over: a sequence is read backwards from its end.
  template <typename Body>
  void for_each_row(size_t step, bool backwards, Body&& body) const {
    for (size_t b = 0; b < args_.batch; ++b) {
      if (step < length(b)) body(b, backwards ? length(b) - 1 - step : step);
    }
  }

  const float* bias() const { return args_.bias + constants_; }

  /// The products of a state with `count` gates from `gate` on: those that are multiplied at once, or the rest.
  void multiply_state(const Runtime& rt, const float* state, size_t gate, size_t count) const {
    const size_t first = gate * sizes_.padded, at = sizes_.width + first;
    float* const to = h_product_ + first;
    if (args_.dynamic) {
      const QuantizedRows rows = quantize(rt, state, args_.batch, args_.hidden, sizes_.padded, codes_);
      const uint8_t* const r = args_.codes.r + number_ * shapes_.r_bytes();
      const PackedView part =
          gate == 0 ? PackedView{shapes_.at_once, r} : PackedView{shapes_.rest, r + shapes_.at_once_bytes()};
      return multiply_codes(rt, rows, args_.batch, part, args_.codes.scale + constants_ + at,
                            args_.codes.init + constants_ + at, bias() + at, to, sizes_.width);
    }
    const float* const weights = args_.r + (number_ * sizes_.width + first) * args_.hidden;
    const F32Weights r{args_.hidden, count * sizes_.padded, weights};
    multiply(rt, state, args_.batch, sizes_.padded, r, bias() + at, to, sizes_.width);
  }

  GateRows gates(size_t b, size_t t, size_t gate) const {
    const size_t first = gate * sizes_.padded;
    return {x_ + (t * args_.batch + b) * sizes_.width + first, h_product_ + b * sizes_.width + first, sizes_.padded};
  }

  void update(const Runtime& rt, size_t b, size_t t, bool resets_state) const {
    const size_t at = b * sizes_.padded;
    float* const h = state_ + at;
    if (args_.cell == Cell::kLstm) {
      rt.kernels->lstm_gates(gates(b, t, 0), functions(), c_ + at, h);
    } else if (args_.cell == Cell::kGru) {
      rt.kernels->gru_update(gates(b, t, 2), functions(), resets_state ? nullptr : r_ + at, z_ + at, h);
    } else {
      rt.kernels->rnn_gate(gates(b, t, 0), functions(), h);
    }
    std::memcpy(row(t, b), h, args_.hidden * sizeof(float));
  }

  float* row(size_t t, size_t b) const {
    return args_.y + ((t * args_.directions + number_) * args_.batch + b) * args_.hidden;
  }

  /// Zeros past the end of a sequence, and its last state.
  void finish(size_t b) const {
    const size_t bytes = args_.hidden * sizeof(float);
    for (size_t t = length(b); t < args_.steps; ++t) std::memset(row(t, b), 0, bytes);
    std::memcpy(row(args_.steps, b), state_ + b * sizes_.padded, bytes);
    if (args_.cell != Cell::kLstm) return;
    std::memcpy(row(args_.steps + 1, b), c_ + b * sizes_.padded, bytes);
  }

  const RecurrentArgs& args_;
  Sizes sizes_;
  Shapes shapes_;
  size_t number_, constants_;  // where its biases begin
  float *x_, *h_product_, *state_, *c_, *z_, *r_;
  uint8_t* codes_;
};

}  // namespace

bool recurrent_codes_bytes(const RecurrentArgs& args, size_t* w, size_t* r) {
  const Shapes shapes(args);
  size_t one = 0, at_once = 0, rest = 0;
  const bool fits = shapes.w.bytes(&one) && shapes.at_once.bytes(&at_once) && shapes.rest.bytes(&rest) &&
                    checked_add(at_once, shapes.rest.n == 0 ? 0 : rest, &at_once);
  return fits && checked_mul(args.directions, one, w) && checked_mul(args.directions, at_once, r);
}

void recurrent_init(const Kernels& kernels, const RecurrentArgs& args, int32_t* init) {
  const Shapes shapes(args);
  for (size_t d = 0; d < args.directions; ++d, init += 2 * shapes.w.n) {
    const uint8_t* const r = args.codes.r + d * shapes.r_bytes();
    int32_t* const of_r = init + shapes.w.n;
    make_symmetric_init(kernels, {shapes.w, args.codes.w + d * shapes.w_bytes()}, init);
    make_symmetric_init(kernels, {shapes.at_once, r}, of_r);
    if (shapes.rest.n != 0)
      make_symmetric_init(kernels, {shapes.rest, r + shapes.at_once_bytes()}, of_r + shapes.at_once.n);
  }
}

bool recurrent_scratch_bytes(const RecurrentArgs& args, size_t* bytes) {
  Rooms rooms{};
  if (!rooms_of(args, &rooms) || !checked_mul(rooms.all, args.directions * sizeof(float), bytes)) return false;
  if (!args.dynamic) return true;
  // Rows of x and of the states are there as floats, so that a byte an item and some lines a row cannot overflow.
  const size_t x = quantized_rows_bytes(args.steps * args.batch, args.inputs);
  return checked_add(*bytes, x + args.directions * quantized_rows_bytes(args.batch, args.hidden), bytes);
}

uint64_t recurrent_macs(const RecurrentArgs& args) {
  size_t macs = 0;
  bool fits = checked_mul(args.steps, args.batch, &macs) && checked_mul(macs, args.directions, &macs);
  fits = fits && checked_mul(macs, args.inputs + args.hidden, &macs);
  return fits && checked_mul(macs, gates_of(args.cell) * args.hidden, &macs) ? macs : 0;
}

void recurrent(const Runtime& rt, const RecurrentArgs& args, uint8_t* scratch) {
  float* const floats = reinterpret_cast<float*>(scratch);
  QuantizedRows rows{};
  if (args.dynamic) {
    rows = quantize(rt, args.x, args.steps * args.batch, args.inputs, args.inputs,
                    Direction::quantized_rows(args, floats));
  }
  for (size_t d = 0; d < args.directions; ++d) {
    Direction(args, d, floats).multiply_inputs(rt, args.dynamic ? &rows : nullptr);
  }
  const double macs = static_cast<double>(args.batch * args.hidden) * static_cast<double>(Sizes(args).width);
  const Isa isa = rt.kernels->isa;
  const double us = macs / (args.dynamic ? macs_per_us(isa) : f32_macs_per_us(isa));
  const bool large = us > kWakesPerStep * machine().wake_us;
  const bool apart = args.directions == 2 && rt.threads > 1 && !(large && rt.threads > 2);
  const Runtime alone{rt.kernels, 1};
  parallel_for(args.directions, apart ? 2 : 1, [&](size_t d) { Direction(args, d, floats).run(apart ? alone : rt); });
}

}  // namespace ek
