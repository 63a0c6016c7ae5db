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

/// What steps find in the arena as they run. An owner's bytes hold one tensor at a time: what a step wrote there last.
struct Contents {
  explicit Contents(const ProgramIndex& program)
      : index(program),
        owner(owners(program)),
        holder(program.tensors.size()),
        written(program.tensors.size(), -1),
        last(program.tensors.size(), -1),
        holds(program.tensors.size(), -1),
        outside(program.tensors.size(), true),
        is_input(program.tensors.size(), false) {
    std::vector<bool> is_written(index.tensors.size(), false);
    for (const uint32_t id : index.inputs) is_input[owner[id]] = true;
    for (const Step& s : index.steps) {
      for (const uint32_t id : s.out) outside[owner[id]] = false, is_written[id] = true;
    }
    for (size_t i = 0; i < holder.size(); ++i) {
      const int32_t of = index.tensors[i].alias_of;
      holder[i] = of < 0 || is_written[i] ? i : holder[static_cast<size_t>(of)];
    }
  }

  /// Whether a tensor's bytes are its own now. `who` wants to read them.
  Status find(size_t id, const std::string& who) const {
    const size_t at = owner[id], own = holder[id];
    if (outside[at] || is_input[at] || holds[at] == static_cast<int64_t>(own)) return {};  // no step writes an input
    const std::string wants = who + " reads tensor '" + index.tensors[id].name + "'";
    if (written[own] < 0) return bad(wants + " before it is written");
    return bad(wants + ", over which step '" +
               index.steps[static_cast<size_t>(written[static_cast<size_t>(holds[at])])].name + "' has written");
  }

  /// Whether a step may write `id` over what it aliases: it reads that, in a way that lets it, and so nobody after it.
  Status check_place(const Step& s, uint32_t id) const {
    const size_t at = owner[id], of = static_cast<size_t>(index.tensors[id].alias_of);
    const std::string claim =
        "step '" + s.name + "' writes tensor '" + index.tensors[id].name + "' over '" + index.tensors[of].name + "', ";
    bool reads = false;
    for (size_t i = 0; i < s.in.size(); ++i) {
      if (owner[s.in[i]] != at) continue;
      if (!may_replace(index, s, i)) {
        return bad(claim + "which a step of its kind (" + find_step_type(s.kind)->name + ") may not do with input " +
                   std::to_string(i));
      }
      reads = true;
    }
    if (!reads) return bad(claim + "which it does not read");
    return holds[at] == static_cast<int64_t>(holder[of]) ? Status() : bad(claim + "which is no longer there");
  }

  Status run(size_t i) {
    const Step& s = index.steps[i];
    for (const uint32_t id : s.in) {
      EK_RETURN_IF_ERROR(find(id, "step '" + s.name + "'"));
      last[owner[id]] = static_cast<int64_t>(i);
    }
    for (const uint32_t id : s.out) {
      const size_t at = owner[id];
      if (written[id] >= 0 || is_input[at]) {
        return bad("step '" + s.name + "' writes tensor '" + index.tensors[id].name + "', which is written already");
      }
      if (at != id) EK_RETURN_IF_ERROR(check_place(s, id));
      written[id] = last[at] = static_cast<int64_t>(i);
      holds[at] = static_cast<int64_t>(id);
    }
    return {};
  }

  const ProgramIndex& index;
  const std::vector<size_t> owner;      // of each tensor's bytes
  std::vector<size_t> holder;           // what a step has written for it to be read: itself, or what it is a view of
  std::vector<int64_t> written, last;   // the step that wrote it; of owners, the last one that needs the bytes
  std::vector<int64_t> holds;           // of owners: the tensor whose bytes they are now; -1: none
  std::vector<bool> outside, is_input;  // of owners: no step writes it; a caller does
};

/// Steps write each tensor once and read it afterwards, until a step that may do so writes over it; what no step writes
/// comes from outside (an input, or a host step between two segments) and lives the whole run. No two that live
/// together may share a byte.
Status check_memory(const ProgramIndex& index) {
  const int64_t end = static_cast<int64_t>(index.steps.size());
  Contents now(index);
  for (size_t i = 0; i < index.steps.size(); ++i) EK_RETURN_IF_ERROR(now.run(i));
  for (const uint32_t id : index.outputs) {
    EK_RETURN_IF_ERROR(now.find(id, "the caller"));
    now.last[now.owner[id]] = end;
  }

  std::vector<Buffer> lifetimes(index.tensors.size());
  std::vector<uint64_t> offsets(index.tensors.size());
  for (size_t i = 0; i < index.tensors.size(); ++i) {
    offsets[i] = index.tensors[i].offset;
    if (index.tensors[i].alias_of >= 0) continue;  // an empty lifetime: its owner stands for it
    uint64_t bytes = 0;
    if (!tensor_bytes(index.tensors[i], &bytes)) return bad("damaged shape");
    const bool whole_run = now.outside[i] && !now.is_input[i];
    lifetimes[i] = {now.outside[i] ? -1 : now.written[i], whole_run ? end + 1 : now.last[i] + 1, bytes};
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
