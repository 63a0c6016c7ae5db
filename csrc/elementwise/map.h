// A chain of element-wise operations in one pass over memory, with broadcast operands. Values between the first operand
// and the result live in blocks that stay in the L1 cache.
//
// Everything is decided when the plan is made: how each operand is met, which block of scratch memory holds which value
// and until when. A run then calls one kernel an instruction and block.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/kernels.h"

namespace ek {

inline constexpr size_t kMapRank = 8;
using MapSides = std::array<size_t, kMapRank>;

/// A tensor or constants, met at sum(steps[i] * index[i]); steps are in items, 0 along an axis that is broadcast.
struct MapOperand {
  MapFormat format;
  MapSides steps{};
};

/// Operands are numbers of values: those of the chain's operands first, then constants, then earlier instructions.
struct MapInstruction {
  MapOp op;
  std::array<size_t, 3> x{};
};

size_t operands_of(MapOp op);
size_t item_bytes(const MapFormat& format);

/// T: float or int64_t, what the chain computes in.
template <typename T>
class MapPlan {
 public:
  /// At least one instruction; the last one's result is the chain's. y has elements.
  MapPlan(const Runtime& rt, const MapSides& shape, std::vector<MapOperand> operands, const std::vector<T>& constants,
          const std::vector<MapInstruction>& code, MapFormat y);

  size_t scratch_bytes() const;
  /// Where run() looks for the operands, set before it: at the beginning of its scratch memory, one for each.
  const uint8_t** addresses(uint8_t* scratch) const { return reinterpret_cast<const uint8_t**>(scratch); }
  void run(uint8_t* y, uint8_t* scratch) const;

 private:
  /// How a block of y meets an operand.
  enum class Way {
    kDirect,    // where it lies, lane by lane
    kOne,       // one item for all of y
    kOneInRow,  // one item for all of a row
    kRepeated,  // the same items in every block, brought there once a task
    kGathered,  // brought into a block each time
  };
  struct Action {
    bool loads;
    MapOp op;
    std::array<size_t, 3> x;  // places; of a load, the operand
    size_t y;                 // place
  };
  struct Block {
    size_t at, n;  // elements of y
  };
  /// Where a task stands, and what it works on.
  struct Task;

  void merge_axes(const MapSides& shape);
  bool is_dense(const MapOperand& operand) const;
  size_t period(const MapOperand& operand) const;
  void choose_ways();
  void choose_block();
  void assign_places(const std::vector<MapInstruction>& code);
  void count_tasks(const std::vector<MapInstruction>& code);

  size_t offset(const MapOperand& operand, size_t at) const;
  void gather(const MapOperand& operand, const uint8_t* from, Block block, T* y) const;
  void load(const MapOperand& operand, const uint8_t* from, size_t n, T* y) const;
  void begin(Task& task) const;
  void enter_row(Task& task, bool first) const;
  void run_block(Task& task, Block block, size_t in_row, uint8_t* y) const;
  void run_task(size_t number, uint8_t* y, uint8_t* scratch) const;
  size_t task_bytes() const;

  const Runtime rt_;
  MapFormat y_format_;
  std::vector<MapOperand> operands_;
  std::vector<size_t> sides_;  // of y, axes merged
  std::vector<Way> ways_;      // of operands
  size_t row_ = 0;             // elements from which on blocks begin anew
  size_t rows_ = 0, block_ = 0, blocks_in_row_ = 0, blocks_ = 0;
  size_t constants_ = 0, registers_ = 0;
  std::vector<T> lines_;          // of constants
  std::vector<size_t> repeated_;  // the register of each operand that has one for good
  std::vector<Action> actions_;
  bool stores_ = false;  // y is converted out of the last result's register
  size_t result_ = 0;
  size_t tasks_ = 1;
  int threads_ = 1;
};

extern template class MapPlan<float>;
extern template class MapPlan<int64_t>;

}  // namespace ek
