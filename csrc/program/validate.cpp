// Everything a session relies on. The index, and with it the memory plan, is untrusted input.
#include <algorithm>
#include <cmath>

#include "memory/planner.h"
#include "program/program.h"
#include "program/steps/checks.h"
#include "weights/nibbles.h"

namespace ek {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr size_t kMaxRank = 8;

Status bad(const std::string& what) { return {Code::kCorrupt, "program index: " + what}; }

Status check_tensors(const ProgramIndex& index) {
  for (size_t i = 0; i < index.tensors.size(); ++i) {
    const TensorDef& t = index.tensors[i];
    uint64_t bytes = 0;
    if (t.shape.size() > kMaxRank || !tensor_bytes(t, &bytes))
      return bad("tensor '" + t.name + "' has a damaged shape");
    if (t.offset % kAlignment != 0 || t.offset > index.arena_bytes || bytes > index.arena_bytes - t.offset) {
      return bad("tensor '" + t.name + "' lies outside the arena");
    }
    if (is_quantized(t.dtype)) {
      const int32_t low = t.dtype == DType::kU8 ? 0 : -128;
      if (!(t.scale > 0) || !std::isfinite(t.scale) || t.zero_point < low || t.zero_point > low + 255) {
        return bad("tensor '" + t.name + "' has a damaged scale or zero point");
      }
    }
    if (t.alias_of >= 0) {
      uint64_t same = 0;
      const size_t of = static_cast<size_t>(t.alias_of);
      if (of >= i || !tensor_bytes(index.tensors[of], &same) || same != bytes || index.tensors[of].offset != t.offset ||
          dtype_bytes(index.tensors[of].dtype) != dtype_bytes(t.dtype)) {
        return bad("tensor '" + t.name + "' is no view of tensor " + std::to_string(t.alias_of));
      }
    } else if (t.alias_of != -1) {
      return bad("tensor '" + t.name + "' is a view of nothing");
    }
  }
  return {};
}

/// Whether the parts of 4 bits, and their sums behind them, are what the blob's bytes are.
bool nibbles_fit(const BlobDef& b) {
  uint64_t codes = 0;
  if (b.parts == 0 || b.codes == 0 || b.codes % kLineOfCodes != 0 || !checked_mul(uint64_t{b.parts}, b.codes, &codes) ||
      codes / 2 > b.bytes || b.nibble_bytes() > b.bytes) {
    return false;
  }
  return (b.bytes - b.nibble_bytes()) % (b.parts * kAlignment) == 0;
}

Status check_blobs(const ProgramIndex& index, uint64_t data_bytes) {
  for (const BlobDef& b : index.blobs) {
    if (b.offset % kAlignment != 0 || b.bytes % kAlignment != 0 || b.offset > data_bytes ||
        b.bytes > data_bytes - b.offset) {
      return bad("blob '" + b.name + "' lies outside the file");
    }
    if (b.stored == Storage::kInt4 && !nibbles_fit(b))
      return bad("blob '" + b.name + "' is not stored as its codes say");
  }
  return {};
}

bool inside(const std::vector<uint32_t>& ids, size_t count) {
  return std::all_of(ids.begin(), ids.end(), [&](uint32_t id) { return id < count; });
}

Status check_all_ids(const ProgramIndex& index) {
  const size_t tensors = index.tensors.size();
  if (!inside(index.inputs, tensors) || !inside(index.outputs, tensors))
    return bad("an input or output does not exist");
  for (const Step& step : index.steps) EK_RETURN_IF_ERROR(check_ids(index, step));
  uint32_t at = 0;
  for (const Segment& s : index.segments) {
    if (s.begin != at || s.end < s.begin) return bad("segments do not cover the steps");
    at = s.end;
  }
  return at == index.steps.size() && !index.segments.empty() ? Status() : bad("segments do not cover the steps");
}

/// For each tensor the one that owns its bytes: itself, or what it is a view of. A view names an earlier tensor.
std::vector<size_t> owners(const ProgramIndex& index) {
  std::vector<size_t> roots(index.tensors.size());
  for (size_t i = 0; i < roots.size(); ++i) {
    const int32_t of = index.tensors[i].alias_of;
    roots[i] = of < 0 ? i : roots[static_cast<size_t>(of)];
  }
  return roots;
}

/// Steps write each tensor once and read it afterwards; what no step writes comes from outside (an input, or a host
/// step between two segments) and lives the whole run. No two that live together may share a byte.
Status check_memory(const ProgramIndex& index) {
  const int64_t end = static_cast<int64_t>(index.steps.size());
  const std::vector<size_t> root_of = owners(index);
  std::vector<int64_t> written(index.tensors.size(), -1), last(index.tensors.size(), -1);
  std::vector<bool> outside(index.tensors.size(), true), is_input(index.tensors.size(), false);
  for (const uint32_t id : index.inputs) is_input[root_of[id]] = true;
  for (const Step& s : index.steps) {
    for (const uint32_t id : s.out) outside[root_of[id]] = false;
  }
  for (size_t i = 0; i < index.steps.size(); ++i) {
    const Step& s = index.steps[i];
    for (const uint32_t id : s.in) {
      const size_t root = root_of[id];
      if (!outside[root] && written[root] < 0) {
        return bad("step '" + s.name + "' reads tensor '" + index.tensors[id].name + "' before it is written");
      }
      last[root] = static_cast<int64_t>(i);
    }
    for (const uint32_t id : s.out) {
      const size_t root = root_of[id];
      if (written[root] >= 0 || is_input[root] || index.tensors[id].alias_of >= 0) {
        return bad("step '" + s.name + "' writes tensor '" + index.tensors[id].name + "', which is written already");
      }
      written[root] = last[root] = static_cast<int64_t>(i);
    }
  }
  for (const uint32_t id : index.outputs) last[root_of[id]] = end;

  std::vector<Buffer> lifetimes(index.tensors.size());
  std::vector<uint64_t> offsets(index.tensors.size());
  for (size_t i = 0; i < index.tensors.size(); ++i) {
    offsets[i] = index.tensors[i].offset;
    if (index.tensors[i].alias_of >= 0) continue;  // an empty lifetime: its root stands for it
    uint64_t bytes = 0;
    if (!tensor_bytes(index.tensors[i], &bytes)) return bad("damaged shape");
    const bool whole_run = outside[i] && !is_input[i];
    lifetimes[i] = {outside[i] ? -1 : written[i], whole_run ? end + 1 : last[i] + 1, bytes};
  }
  const Status plan = ek::check_plan(lifetimes, offsets, kAlignment, index.arena_bytes);
  return plan.ok() ? plan : bad("memory plan: " + plan.message());
}

}  // namespace

Status check_ids(const ProgramIndex& index, const Step& step) {
  const size_t tensors = index.tensors.size();
  const bool exist = inside(step.in, tensors) && inside(step.out, tensors) && inside(step.blobs, index.blobs.size());
  return exist ? Status() : bad("step '" + step.name + "' names a tensor or blob that does not exist");
}

bool needs_host(const ProgramIndex& index) {
  const std::vector<size_t> root_of = owners(index);
  std::vector<bool> known(index.tensors.size(), false);
  for (const uint32_t id : index.inputs) known[root_of[id]] = true;
  for (const Step& s : index.steps) {
    for (const uint32_t id : s.out) known[root_of[id]] = true;
  }
  const auto unknown = [&](uint32_t id) { return !known[root_of[id]]; };
  return std::any_of(index.outputs.begin(), index.outputs.end(), unknown) ||
         std::any_of(index.steps.begin(), index.steps.end(),
                     [&](const Step& s) { return std::any_of(s.in.begin(), s.in.end(), unknown); });
}

Status validate(const ProgramIndex& index, uint64_t data_bytes) {
  EK_RETURN_IF_ERROR(check_tensors(index));
  EK_RETURN_IF_ERROR(check_blobs(index, data_bytes));
  EK_RETURN_IF_ERROR(check_all_ids(index));
  for (const Step& step : index.steps) EK_RETURN_IF_ERROR(check_step(index, step));
  return check_memory(index);
}

}  // namespace ek
