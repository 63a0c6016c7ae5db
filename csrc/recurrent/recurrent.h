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

/// Gates stand in the order of ONNX, and each is padded to whole strips: H' = hidden rounded up to kStrip.
struct RecurrentArgs {
  Cell cell = Cell::kLstm;
  size_t steps = 0, batch = 0, inputs = 0, hidden = 0, directions = 1;
  bool reverse = false;              // of one direction; of two the second one is
  bool linear_before_reset = false;  // GRU: r multiplies the product with the state, and not the state
  std::array<GateFunctions, 2> functions{};
  const float* w = nullptr;          // packed, a direction behind the other: inputs x gates * H'
  const float* r = nullptr;          // packed: hidden x gates * H'
  const float* bias = nullptr;       // [directions][2][gates * H']: of W and of R
  const float* x = nullptr;          // [steps][batch][inputs]
  const int32_t* lengths = nullptr;  // [batch], in [0, steps]; null: all of them
  const float* h0 = nullptr;         // [directions][batch][hidden]; null: zeros
  const float* c0 = nullptr;
  float* y = nullptr;  // [steps][directions][batch][hidden], the last h, and of an LSTM the last c; zeros past a length
};

/// False where the bytes do not fit.
bool recurrent_scratch_bytes(const RecurrentArgs& args, size_t* bytes);
uint64_t recurrent_macs(const RecurrentArgs& args);
void recurrent(const Runtime& rt, const RecurrentArgs& args, uint8_t* scratch);

}  // namespace ek
