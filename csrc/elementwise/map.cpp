#include "elementwise/map.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kRegisterBytes = 16384;  // of all of them, so that they stay in an L1 cache beside what streams by
constexpr size_t kLongestBlock = 8192, kShortestBlock = 256;  // lanes
constexpr size_t kMostRepeated = 4096;
constexpr size_t kShortRow = 64;  // shorter ones are gathered into blocks
constexpr size_t kTasksPerThread = 4;
constexpr size_t kAlignment = 64;

constexpr uint8_t kOperands[] = {
#define EK_OPERANDS(op, number, name, operands, whole) operands,
    EK_MAP_OPS(EK_OPERANDS)
#undef EK_OPERANDS
};

/// About what an instruction takes a lane, in nanoseconds.
double lane_ns(MapOp op) {
  switch (op) {
    case MapOp::kExp:
    case MapOp::kLog:
    case MapOp::kTanh:
    case MapOp::kErf:
    case MapOp::kSigmoid:
    case MapOp::kSilu:
    case MapOp::kGelu:
    case MapOp::kGeluTanh:
    case MapOp::kSoftplus:
      return 1.0;
    case MapOp::kSin:
    case MapOp::kCos:
    case MapOp::kTan:
    case MapOp::kAsin:
    case MapOp::kAcos:
    case MapOp::kAtan:
    case MapOp::kSinh:
    case MapOp::kCosh:
    case MapOp::kPow:
    case MapOp::kMod:
    case MapOp::kFmod:
      return 15.0;
    default:
      return 0.15;
  }
}
constexpr double kStreamNs = 0.3;  // a lane from memory and back

template <typename T>
constexpr MapType kOwnType = std::is_same_v<T, float> ? MapType::kF32 : MapType::kI64;

constexpr size_t kWalks = ~size_t{0};

}  // namespace

size_t operands_of(MapOp op) { return kOperands[static_cast<size_t>(op)]; }

size_t item_bytes(const MapFormat& format) {
  switch (format.type) {
    case MapType::kF16:
    case MapType::kBf16:
      return 2;
    case MapType::kI64:
      return 8;
    case MapType::kBool:
    case MapType::kCodes:
      return 1;
    default:
      return 4;
  }
}

template <typename T>
MapPlan<T>::MapPlan(const Runtime& rt, const MapSides& shape, std::vector<MapOperand> operands,
                    const std::vector<T>& constants, const std::vector<MapInstruction>& code, MapFormat y)
    : rt_(rt), y_format_(y), operands_(std::move(operands)), constants_(constants.size()) {
  for (const T constant : constants) lines_.insert(lines_.end(), kStrip, constant);
  merge_axes(shape);
  choose_ways();
  assign_places(code);
  choose_block();
  count_tasks(code);
}

/// Axes of one item go, and neighbors that every operand walks as if they were one become one.
template <typename T>
void MapPlan<T>::merge_axes(const MapSides& shape) {
  std::vector<MapOperand> merged = operands_;
  for (size_t axis = 0; axis < kMapRank; ++axis) {
    if (shape[axis] == 1) continue;
    const bool joins = !sides_.empty() && std::all_of(merged.begin(), merged.end(), [&](const MapOperand& m) {
      const size_t step = operands_[static_cast<size_t>(&m - merged.data())].steps[axis];
      return m.steps[sides_.size() - 1] == step * shape[axis];
    });
    if (joins) {
      sides_.back() *= shape[axis];
    } else {
      sides_.push_back(shape[axis]);
    }
    for (size_t i = 0; i < merged.size(); ++i) merged[i].steps[sides_.size() - 1] = operands_[i].steps[axis];
  }
  if (sides_.empty()) {  // a single element
    sides_.push_back(1);
    for (MapOperand& m : merged) m.steps[0] = 0;
  }
  operands_ = std::move(merged);
}

/// Whether items lie as those of y.
template <typename T>
bool MapPlan<T>::is_dense(const MapOperand& operand) const {
  size_t step = 1;
  for (size_t axis = sides_.size(); axis-- > 0; step *= sides_[axis]) {
    if (operand.steps[axis] != step) return false;
  }
  return true;
}

/// After how many elements of y an operand begins anew; 0 where it does not.
template <typename T>
size_t MapPlan<T>::period(const MapOperand& operand) const {
  size_t axis = 0, elements = 1;
  while (axis < sides_.size() && operand.steps[axis] == 0) ++axis;
  for (size_t a = axis; a < sides_.size(); ++a) elements *= sides_[a];
  return axis == 0 ? 0 : elements;
}

/// Blocks take elements of y as they come, or, where an operand would have to be gathered for each of them, rows.
template <typename T>
void MapPlan<T>::choose_ways() {
  const size_t elements = std::accumulate(sides_.begin(), sides_.end(), size_t{1}, std::multiplies<>());
  const auto way = [&](const MapOperand& operand, bool by_rows) {
    const bool own = operand.format.type == kOwnType<T>;
    const size_t inner = operand.steps[sides_.size() - 1], again = period(operand);
    if (again == 1) return Way::kOne;
    if (own && (is_dense(operand) || (by_rows && inner == 1))) return Way::kDirect;
    if (by_rows && inner == 0) return Way::kOneInRow;
    if (!by_rows && again != 0 && again <= kMostRepeated) return Way::kRepeated;
    return Way::kGathered;
  };
  const auto gathers = [&](bool by_rows) {
    return std::count_if(operands_.begin(), operands_.end(), [&](const MapOperand& operand) {
      // What lies as y does and is converted costs the same either way.
      return way(operand, by_rows) == Way::kGathered && !is_dense(operand);
    });
  };
  const bool by_rows = sides_.size() > 1 && sides_.back() >= kShortRow && gathers(false) > gathers(true);
  row_ = by_rows ? sides_.back() : elements;
  rows_ = elements / row_;
  for (const MapOperand& operand : operands_) ways_.push_back(way(operand, by_rows));
}

/// Places are operands, then constants, then registers. A register is free again after the last use of its value.
template <typename T>
void MapPlan<T>::assign_places(const std::vector<MapInstruction>& code) {
  const size_t first = operands_.size() + constants_;
  std::vector<size_t> last_use(first + code.size(), 0), place(first + code.size());
  for (size_t i = 0; i < code.size(); ++i) {
    for (size_t j = 0; j < operands_of(code[i].op); ++j) last_use[code[i].x[j]] = i;
  }
  std::iota(place.begin(), place.end(), size_t{0});
  std::vector<size_t> unused;
  const auto take = [&] {
    if (unused.empty()) return registers_++;
    const size_t taken = unused.back();
    unused.pop_back();
    return taken;
  };
  std::vector<bool> is_loaded(operands_.size(), false);
  repeated_.assign(operands_.size(), 0);
  for (size_t k = 0; k < operands_.size(); ++k) {
    if (ways_[k] == Way::kRepeated) repeated_[k] = take();
  }
  stores_ = y_format_.type != kOwnType<T>;
  for (size_t i = 0; i < code.size(); ++i) {
    const size_t count = operands_of(code[i].op);
    Action action{false, code[i].op, {}, 0};
    for (size_t j = 0; j < count; ++j) {
      const size_t value = code[i].x[j];
      if (value < operands_.size() && ways_[value] == Way::kGathered && !is_loaded[value]) {
        is_loaded[value] = true;
        place[value] = first + take();
        actions_.push_back({true, MapOp::kCopy, {value, 0, 0}, place[value]});
      }
      action.x[j] = place[value];
    }
    for (size_t j = 0; j < count; ++j) {
      const size_t value = code[i].x[j];
      const bool again = std::find(code[i].x.begin(), code[i].x.begin() + j, value) != code[i].x.begin() + j;
      if (!again && place[value] >= first && last_use[value] == i) unused.push_back(place[value] - first);
    }
    const bool is_last = i + 1 == code.size();
    result_ = action.y = place[first + i] = first + (is_last && !stores_ ? 0 : take());
    // A value that nobody asks for leaves at once.
    if (!is_last && last_use[first + i] <= i) unused.push_back(action.y - first);
    actions_.push_back(action);
  }
}

template <typename T>
void MapPlan<T>::choose_block() {
  const size_t fitting = registers_ == 0 ? kLongestBlock : kRegisterBytes / (registers_ * sizeof(T));
  block_ = std::max(kShortestBlock, std::min(kLongestBlock, fitting / kStrip * kStrip));
  size_t again = 1;  // the longest period, of which the others are divisors
  for (size_t k = 0; k < operands_.size(); ++k) {
    if (ways_[k] == Way::kRepeated) again = std::max(again, period(operands_[k]));
  }
  const size_t aligned = std::lcm(again, kStrip);
  const size_t unit = aligned <= std::max(block_, kMostRepeated) ? aligned : again;
  block_ = std::max(unit, block_ / unit * unit);
  blocks_in_row_ = ceil_div(row_, block_);
  blocks_ = rows_ * blocks_in_row_;
}

template <typename T>
void MapPlan<T>::count_tasks(const std::vector<MapInstruction>& code) {
  double ns = kStreamNs;
  for (const MapInstruction& i : code) ns += lane_ns(i.op);
  const bool shared = worth_a_thread(static_cast<double>(rows_ * row_) * ns / 1000);
  threads_ = shared ? rt_.threads : 1;
  tasks_ = shared ? std::min(blocks_, kTasksPerThread * static_cast<size_t>(rt_.threads)) : 1;
}

template <typename T>
struct MapPlan<T>::Task {
  const uint8_t* const* from;  // operands
  MapSource<T>* places;        // of operands, constants and registers
  size_t* rows;                // items from an operand's beginning to its row
  T* lines;                    // of operands
  T* registers;
  std::array<size_t, kMapRank> index;  // of the row
};

// Scratch memory: addresses of operands; then for each task its places, the rows and lines of its operands, registers.
template <typename T>
size_t MapPlan<T>::task_bytes() const {
  const size_t places = (operands_.size() + constants_ + registers_ + 1) * sizeof(MapSource<T>);
  const size_t lanes = operands_.size() * kStrip + registers_ * round_up(block_, kStrip);
  return round_up(places + operands_.size() * sizeof(size_t), kAlignment) + lanes * sizeof(T);
}
template <typename T>
size_t MapPlan<T>::scratch_bytes() const {
  return round_up(operands_.size() * sizeof(uint8_t*), kAlignment) + tasks_ * round_up(task_bytes(), kAlignment);
}

/// Items from an operand's beginning to what an element of y meets.
template <typename T>
size_t MapPlan<T>::offset(const MapOperand& operand, size_t at) const {
  size_t items = 0;
  for (size_t axis = sides_.size(); axis-- > 1; at /= sides_[axis]) items += at % sides_[axis] * operand.steps[axis];
  return items + at * operand.steps[0];
}

template <typename T>
void MapPlan<T>::load(const MapOperand& operand, const uint8_t* from, size_t n, T* y) const {
  if (operand.format.type == kOwnType<T>) {
    std::memcpy(y, from, n * sizeof(T));
  } else if constexpr (std::is_same_v<T, float>) {
    rt_.kernels->map_load(from, operand.format, n, y);
  } else {
    rt_.kernels->map_load_i64(from, operand.format, n, y);
  }
}

/// What the elements of a block meet, one behind the other.
template <typename T>
void MapPlan<T>::gather(const MapOperand& operand, const uint8_t* from, Block block, T* y) const {
  const size_t item = item_bytes(operand.format);
  if (is_dense(operand)) return load(operand, from + block.at * item, block.n, y);
  const size_t inner = sides_.size() - 1, side = sides_[inner], step = operand.steps[inner];
  std::array<size_t, kMapRank> index{};
  size_t rest = block.at;
  for (size_t axis = inner + 1; axis-- > 0; rest /= sides_[axis]) index[axis] = rest % sides_[axis];
  const uint8_t* row = from + (offset(operand, block.at) - index[inner] * step) * item;
  for (size_t left = block.n; left > 0;) {
    const size_t run = std::min(left, side - index[inner]);
    const uint8_t* const first = row + index[inner] * step * item;
    if (step == 1) {
      load(operand, first, run, y);
    } else if (step == 0) {
      T one{};
      load(operand, first, 1, &one);
      std::fill_n(y, run, one);
    } else {
      for (size_t i = 0; i < run; ++i) load(operand, first + i * step * item, 1, y + i);
    }
    y += run;
    left -= run;
    index[inner] = 0;
    for (size_t axis = inner; axis-- > 0;) {  // on to the next row
      row += operand.steps[axis] * item;
      if (++index[axis] < sides_[axis]) break;
      row -= sides_[axis] * operand.steps[axis] * item;
      index[axis] = 0;
    }
  }
}

template <typename T>
void MapPlan<T>::begin(Task& task) const {
  const size_t first = operands_.size() + constants_;
  const auto at_register = [&](size_t r) { return task.registers + r * round_up(block_, kStrip); };
  for (size_t k = 0; k < operands_.size(); ++k) {
    T* const line = task.lines + k * kStrip;
    task.places[k] = {line, ways_[k] == Way::kOne || ways_[k] == Way::kOneInRow ? 0 : kWalks};
    if (ways_[k] == Way::kOne) {
      load(operands_[k], task.from[k], 1, line);
      std::fill_n(line + 1, kStrip - 1, line[0]);
    } else if (ways_[k] == Way::kRepeated) {
      task.places[k].p = at_register(repeated_[k]);
      gather(operands_[k], task.from[k], {0, std::min(block_, row_)}, at_register(repeated_[k]));
    }
  }
  for (size_t c = 0; c < constants_; ++c) task.places[operands_.size() + c] = {lines_.data() + c * kStrip, 0};
  for (size_t r = 0; r < registers_; ++r) task.places[first + r] = {at_register(r), kWalks};
}

/// The task's first row, or the one behind the last.
template <typename T>
void MapPlan<T>::enter_row(Task& task, bool first) const {
  for (size_t axis = sides_.size() - 1; !first && axis-- > 0;) {
    const bool wraps = ++task.index[axis] == sides_[axis];
    if (wraps) task.index[axis] = 0;
    for (size_t k = 0; k < operands_.size(); ++k) {
      const size_t step = operands_[k].steps[axis];
      task.rows[k] += wraps ? step - sides_[axis] * step : step;
    }
    if (!wraps) break;
  }
  for (size_t k = 0; k < operands_.size(); ++k) {
    if (ways_[k] != Way::kOneInRow) continue;
    T* const line = task.lines + k * kStrip;
    load(operands_[k], task.from[k] + task.rows[k] * item_bytes(operands_[k].format), 1, line);
    for (size_t i = 1; i < kStrip; ++i) line[i] = line[0];
  }
}

template <typename T>
void MapPlan<T>::run_block(Task& task, Block block, size_t in_row, uint8_t* y) const {
  for (size_t k = 0; k < operands_.size(); ++k) {
    if (ways_[k] == Way::kDirect) {
      task.places[k].p = reinterpret_cast<const T*>(task.from[k]) + task.rows[k] + in_row;
    }
  }
  T* const to = reinterpret_cast<T*>(y) + block.at;
  for (size_t i = 0; i < actions_.size(); ++i) {
    const Action& action = actions_[i];
    const bool writes_y = !stores_ && i + 1 == actions_.size();
    T* const result = writes_y ? to : const_cast<T*>(task.places[action.y].p);
    if (action.loads) {
      gather(operands_[action.x[0]], task.from[action.x[0]], block, result);
      continue;
    }
    const MapSource<T> x[3] = {task.places[action.x[0]], task.places[action.x[1]], task.places[action.x[2]]};
    if constexpr (std::is_same_v<T, float>) {
      rt_.kernels->map(action.op, x, block.n, result);
    } else {
      rt_.kernels->map_i64(action.op, x, block.n, result);
    }
  }
  if (!stores_) return;
  uint8_t* const bytes = y + block.at * item_bytes(y_format_);
  if constexpr (std::is_same_v<T, float>) {
    rt_.kernels->map_store(task.places[result_].p, y_format_, block.n, bytes);
  } else {
    rt_.kernels->map_store_i64(task.places[result_].p, y_format_, block.n, bytes);
  }
}

template <typename T>
void MapPlan<T>::run_task(size_t number, uint8_t* y, uint8_t* scratch) const {
  const size_t places = operands_.size() + constants_ + registers_ + 1;
  uint8_t* const own =
      scratch + round_up(operands_.size() * sizeof(uint8_t*), kAlignment) + number * round_up(task_bytes(), kAlignment);
  uint8_t* const rows = own + places * sizeof(MapSource<T>);
  T* const lines = reinterpret_cast<T*>(
      own + round_up(places * sizeof(MapSource<T>) + operands_.size() * sizeof(size_t), kAlignment));
  Task task{addresses(scratch),
            reinterpret_cast<MapSource<T>*>(own),
            reinterpret_cast<size_t*>(rows),
            lines,
            lines + operands_.size() * kStrip,
            {}};
  const size_t end = (number + 1) * blocks_ / tasks_;
  size_t b = number * blocks_ / tasks_, row = b / blocks_in_row_, in_row = b % blocks_in_row_ * block_;
  begin(task);
  for (size_t k = 0; k < operands_.size(); ++k) task.rows[k] = rows_ == 1 ? 0 : offset(operands_[k], row * row_);
  for (size_t axis = sides_.size() - 1, rest = row; axis-- > 0; rest /= sides_[axis]) {
    task.index[axis] = rest % sides_[axis];
  }
  enter_row(task, true);
  for (; b < end; ++b) {
    run_block(task, {row * row_ + in_row, std::min(block_, row_ - in_row)}, in_row, y);
    in_row += block_;
    if (in_row < row_ || b + 1 == end) continue;
    in_row = 0;
    ++row;
    enter_row(task, false);
  }
}

template <typename T>
void MapPlan<T>::run(uint8_t* y, uint8_t* scratch) const {
  parallel_for(tasks_, threads_, [&](size_t task) { run_task(task, y, scratch); });
}

template class MapPlan<float>;
template class MapPlan<int64_t>;

}  // namespace ek
