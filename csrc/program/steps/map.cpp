// Chains of element-wise operations with broadcast operands, on float32 and on whole numbers.
#include "elementwise/map.h"

#include <algorithm>
#include <memory>

#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

/// More is damage: it bounds what preparing a step takes.
constexpr size_t kMostValues = 4096;

constexpr bool kIsWhole[] = {
#define EK_IS_WHOLE(op, number, name, operands, whole) whole,
    EK_MAP_OPS(EK_IS_WHOLE)
#undef EK_IS_WHOLE
};
constexpr size_t kNumOps = sizeof kIsWhole / sizeof *kIsWhole;

bool is_half(MapType type) { return type == MapType::kF16 || type == MapType::kBf16; }

/// False for a type that no chain reads or writes.
bool format_of(const TensorDef& tensor, MapFormat* format) {
  format->q = quant_of(tensor);
  switch (tensor.dtype) {
    case DType::kF32:
      format->type = MapType::kF32;
      return true;
    case DType::kF16:
      format->type = MapType::kF16;
      return true;
    case DType::kBf16:
      format->type = MapType::kBf16;
      return true;
    case DType::kI64:
      format->type = MapType::kI64;
      return true;
    case DType::kI32:
      format->type = MapType::kI32;
      return true;
    case DType::kBool:
      format->type = MapType::kBool;
      return true;
    case DType::kU8:
    case DType::kS8:
      format->type = MapType::kCodes;
      return true;
    default:
      return false;
  }
}

/// T: what it computes in; its blobs are arrays of that.
template <typename T>
struct Map : NoMacs {
  MapSides shape{};
  size_t num_operands = 0;
  std::vector<float> constants;  // of float chains
  std::vector<size_t> code;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("shape", shape);
    a.size("operands", num_operands, 1);
    if constexpr (kIsReal) a.reals("constants", constants);
    a.list("code", code);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (step.out.size() != 1 || step.in.size() + step.blobs.size() != num_operands) {
      return bad_step(step, "wrong number of operands");
    }
    const size_t values = num_operands + constants.size(), steps = kMapRank * num_operands;
    if (values > kMostValues || code.size() <= steps || (code.size() - steps) % 4 != 0 ||
        code.size() - steps > 4 * kMostValues) {
      return bad_step(step, "damaged code");
    }
    const TensorDef& y = output(index, step);
    MapFormat format;
    const auto [a, b, c, d, e, f, g, h] = shape;
    if (!format_of(y, &format) || (!kIsReal && is_half(format.type)) || !holds(y, {a, b, c, d, e, f, g, h})) {
      return bad_step(step, "shape does not match its tensor");
    }
    for (size_t k = 0; k < num_operands; ++k) {
      const bool is_tensor = k < step.in.size();
      if (is_tensor && (!format_of(input(index, step, k), &format) ||
                        (!kIsReal && (format.type == MapType::kF32 || is_half(format.type))))) {
        return bad_step(step, "an operand's type has no chain");
      }
      const uint64_t items = is_tensor ? elements_of(input(index, step, k))
                                       : held_bytes(index.blobs[step.blobs[k - step.in.size()]]) / sizeof(T);
      size_t last = 0;
      for (size_t axis = 0; axis < kMapRank; ++axis) {
        size_t reach = 0;
        if (shape[axis] == 0) continue;
        if (!checked_mul(shape[axis] - 1, code[kMapRank * k + axis], &reach) || !checked_add(last, reach, &last)) {
          return bad_step(step, "an operand ends before its last item");
        }
      }
      if (last >= items && elements_of(y) != 0) return bad_step(step, "an operand ends before its last item");
    }
    for (size_t at = steps, known = values; at < code.size(); at += 4, ++known) {
      if (code[at] >= kNumOps || (!kIsReal && !kIsWhole[code[at]])) return bad_step(step, "unknown operation");
      const size_t count = operands_of(static_cast<MapOp>(code[at]));
      for (size_t i = 0; i < 3; ++i) {
        const size_t value = code[at + 1 + i];
        if (i < count ? value >= known : value != 0) return bad_step(step, "an operation on no value");
      }
    }
    return {};
  }

  /// What lies as the result does is read block by block, each before it is written. Types differ only where they are
  /// read as bytes.
  bool replaces(const ProgramIndex& index, const Step& step, size_t k) const {
    const DType x = input(index, step, k).dtype, y = output(index, step).dtype;
    if (code.size() < kMapRank * (k + 1)) return false;
    size_t dense = 1;
    for (size_t axis = kMapRank; axis-- > 0; dense *= shape[axis]) {
      if (shape[axis] != 1 && code[kMapRank * k + axis] != dense) return false;
    }
    return x == y || dtype_bytes(x) == 1;
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    std::vector<MapOperand> operands(num_operands);
    std::vector<uint8_t* const*> tensors;
    std::vector<const uint8_t* const*> blobs;
    for (size_t k = 0; k < num_operands; ++k) {
      MapOperand& operand = operands[k];
      operand.format.type = kIsReal ? MapType::kF32 : MapType::kI64;
      std::copy_n(code.begin() + static_cast<ptrdiff_t>(kMapRank * k), kMapRank, operand.steps.begin());
      if (k < step.in.size()) {
        format_of(site.tensor(step.in[k]), &operand.format);
        tensors.push_back(site.place(step.in[k]));
      } else {
        blobs.push_back(site.blob(step.blobs[k - step.in.size()]));
      }
    }
    std::vector<MapInstruction> instructions;
    for (size_t at = kMapRank * num_operands; at < code.size(); at += 4) {
      instructions.push_back({static_cast<MapOp>(code[at]), {code[at + 1], code[at + 2], code[at + 3]}});
    }
    MapFormat y;
    format_of(site.tensor(step.out[0]), &y);
    const auto plan =
        std::make_shared<const MapPlan<T>>(site.runtime(), shape, std::move(operands),
                                           std::vector<T>(constants.begin(), constants.end()), instructions, y);
    return {"map", [plan, tensors, blobs, to = site.place(step.out[0]), scratch = site.scratch(plan->scratch_bytes())] {
              const uint8_t** address = plan->addresses(*scratch);
              for (uint8_t* const* tensor : tensors) *address++ = *tensor;
              for (const uint8_t* const* blob : blobs) *address++ = *blob;
              plan->run(*to, *scratch);
            }};
  }

 private:
  static constexpr bool kIsReal = std::is_same_v<T, float>;
};

}  // namespace

StepType map_step() { return step_type<Map<float>>(StepKind::kMap, "MAP", true); }
StepType map_i64_step() { return step_type<Map<int64_t>>(StepKind::kMapI64, "MAP_I64", true); }

}  // namespace ek
