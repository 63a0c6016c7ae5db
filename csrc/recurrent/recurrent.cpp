#include "recurrent/recurrent.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "gemm/gemm_f32.h"
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

/// A direction's part of the scratch, in floats.
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
  Direction(const Runtime& rt, const RecurrentArgs& args, size_t number, float* scratch)
      : rt_(rt), args_(args), sizes_(args), number_(number) {
    Rooms rooms{};
    static_cast<void>(rooms_of(args, &rooms));
    float* const mine = scratch + number * rooms.all;
    x_ = mine + rooms.x, h_product_ = mine + rooms.h_product, state_ = mine + rooms.state, c_ = mine + rooms.c;
    z_ = mine + rooms.z, r_ = mine + rooms.r;
    bias_ = args.bias + number * 2 * sizes_.width;
    weights_ = args.r + number * args.hidden * sizes_.width;
  }

  void multiply_inputs() const {
    const F32Weights w{args_.inputs, sizes_.width, args_.w + number_ * args_.inputs * sizes_.width};
    multiply(rt_, args_.x, args_.steps * args_.batch, args_.inputs, w, bias_, x_, sizes_.width);
  }

  void run(const Runtime& rt) const {
    fill_state(args_, number_, args_.h0, state_);
    fill_state(args_, number_, args_.c0, c_);
    const bool backwards = args_.directions == 2 ? number_ == 1 : args_.reverse;
    const bool resets_state = args_.cell == Cell::kGru && !args_.linear_before_reset;
    const size_t at_once = resets_state ? 2 : gates_of(args_.cell);
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

  /// The products of a state with `count` gates from `gate` on.
  void multiply_state(const Runtime& rt, const float* state, size_t gate, size_t count) const {
    const size_t first = gate * sizes_.padded;
    const F32Weights r{args_.hidden, count * sizes_.padded, weights_ + first * args_.hidden};
    multiply(rt, state, args_.batch, sizes_.padded, r, bias_ + sizes_.width + first, h_product_ + first, sizes_.width);
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

  const Runtime& rt_;
  const RecurrentArgs& args_;
  Sizes sizes_;
  size_t number_;
  float *x_, *h_product_, *state_, *c_, *z_, *r_;
  const float *bias_, *weights_;
};

}  // namespace

bool recurrent_scratch_bytes(const RecurrentArgs& args, size_t* bytes) {
  Rooms rooms{};
  return rooms_of(args, &rooms) && checked_mul(rooms.all, args.directions * sizeof(float), bytes);
}

uint64_t recurrent_macs(const RecurrentArgs& args) {
  size_t macs = 0;
  bool fits = checked_mul(args.steps, args.batch, &macs) && checked_mul(macs, args.directions, &macs);
  fits = fits && checked_mul(macs, args.inputs + args.hidden, &macs);
  return fits && checked_mul(macs, gates_of(args.cell) * args.hidden, &macs) ? macs : 0;
}

void recurrent(const Runtime& rt, const RecurrentArgs& args, uint8_t* scratch) {
  float* const floats = reinterpret_cast<float*>(scratch);
  for (size_t d = 0; d < args.directions; ++d) Direction(rt, args, d, floats).multiply_inputs();
  const double macs = static_cast<double>(args.batch * args.hidden) * static_cast<double>(Sizes(args).width);
  const bool large = macs / f32_macs_per_us(rt.kernels->isa) > kWakesPerStep * machine().wake_us;
  const bool apart = args.directions == 2 && rt.threads > 1 && !(large && rt.threads > 2);
  const Runtime alone{rt.kernels, 1};
  parallel_for(args.directions, apart ? 2 : 1,
               [&](size_t d) { Direction(rt, args, d, floats).run(apart ? alone : rt); });
}

}  // namespace ek
