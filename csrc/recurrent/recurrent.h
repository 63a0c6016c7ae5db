// LSTM, GRU and RNN over a sequence: the products with the input for all time steps at once, those with the state step
// by step on packed weights, and the gates between them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

enum class Cell : uint8_t { kLstm, kGru, kRnn };
inline constexpr size_t gates_of(Cell cell) { return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1; }

/// 8-bit weights in the place of floats. Directions lie behind one another, each packed by itself; a state is
/// multiplied with the gates that are computed from it at once, and what is left of them is packed behind those.
struct RecurrentCodes {
  const uint8_t* w = nullptr;
  const uint8_t* r = nullptr;
  const float* scale = nullptr;   // as `bias` lies
  const int32_t* init = nullptr;  // as `bias` lies, from recurrent_init()
};

/// Gates stand in the order of ONNX, and each is padded to whole strips: H' = hidden rounded up to kStrip.
struct RecurrentArgs {
  Cell cell = Cell::kLstm;
  bool dynamic = false;  // rows of x and of the state are quantized as they come, and multiplied with `codes`
  size_t steps = 0, batch = 0, inputs = 0, hidden = 0, directions = 1;
  bool reverse = false;              // of one direction; of two the second one is
  bool linear_before_reset = false;  // GRU: r multiplies the product with the state, and not the state
  std::array<GateFunctions, 2> functions{};
  const float* w = nullptr;  // packed, a direction behind the other: inputs x gates * H'
  const float* r = nullptr;  // packed: hidden x gates * H'
  RecurrentCodes codes;
  const float* bias = nullptr;       // [directions][2][gates * H']: of W and of R
  const float* x = nullptr;          // [steps][batch][inputs]
  const int32_t* lengths = nullptr;  // [batch], in [0, steps]; null: all of them
  const float* h0 = nullptr;         // [directions][batch][hidden]; null: zeros
  const float* c0 = nullptr;
  float* y = nullptr;  // [steps][directions][batch][hidden], the last h, and of an LSTM the last c; zeros past a length
};

/// Gates that are multiplied with the state itself. The third of a GRU may have it times the second one instead.
inline size_t gates_at_once(const RecurrentArgs& args) {
  return args.cell == Cell::kGru && !args.linear_before_reset ? 2 : gates_of(args.cell);
}

/// The bytes of packed `codes`: of W, and of R. False where they do not fit.
bool recurrent_codes_bytes(const RecurrentArgs& args, size_t* w, size_t* r);
/// Starting values of accumulators, one for each bias.
void recurrent_init(const Kernels& kernels, const RecurrentArgs& args, int32_t* init);
/// False where the bytes do not fit.
bool recurrent_scratch_bytes(const RecurrentArgs& args, size_t* bytes);
uint64_t recurrent_macs(const RecurrentArgs& args);
void recurrent(const Runtime& rt, const RecurrentArgs& args, uint8_t* scratch);

}  // namespace ek
