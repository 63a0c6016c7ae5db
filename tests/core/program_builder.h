// A program built step by step, and beside each tensor what it is expected to hold.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "memory/planner.h"
#include "program/program.h"
#include "program/steps/checks.h"
#include "reference.h"

namespace ek::test {

/// An argument of a step: its name and its numbers.
struct Argument {
  /// Of one number, or of floats; a list in braces is one of integers.
  template <typename T>
  Argument(const char* its_name, T value) : name(its_name) {
    if constexpr (std::is_same_v<T, std::vector<float>>) {
      floats = std::move(value);
      is_real = true;
    } else if constexpr (std::is_floating_point_v<T>) {
      floats = {value};
      is_real = true;
    } else {
      ints = {static_cast<int64_t>(value)};
    }
  }
  Argument(const char* its_name, std::vector<int64_t> values) : name(its_name), ints(std::move(values)) {}

  std::string name;
  bool is_real = false;
  std::vector<int64_t> ints;
  std::vector<float> floats;
};
using Arguments = std::vector<Argument>;

/// Gives a step all arguments of its kind, which come in any order.
inline void set_arguments(Step& s, const Arguments& arguments) {
  for (const ArgumentName& wanted : find_step_type(s.kind)->arguments) {
    const auto given = std::find_if(arguments.begin(), arguments.end(), [&](const Argument& a) {
      return a.name == wanted.name && (wanted.count == 0 || a.ints.size() + a.floats.size() == wanted.count);
    });
    if (given == arguments.end() || given->is_real != wanted.real) std::abort();
    s.ints.insert(s.ints.end(), given->ints.begin(), given->ints.end());
    s.floats.insert(s.floats.end(), given->floats.begin(), given->floats.end());
  }
  if (arguments.size() != find_step_type(s.kind)->arguments.size()) std::abort();
}

/// The number of an argument, or the i-th of its numbers.
inline int64_t& integer(Step& s, const std::string& name, size_t i = 0) {
  size_t at = 0;
  for (const ArgumentName& argument : find_step_type(s.kind)->arguments) {
    if (name == argument.name && !argument.real) return s.ints.at(at + i);
    at += argument.real ? 0 : argument.count;
  }
  std::abort();
}
inline float& real(Step& s, const std::string& name) {
  size_t at = 0;
  for (const ArgumentName& argument : find_step_type(s.kind)->arguments) {
    if (name == argument.name && argument.real) return s.floats.at(at);
    at += argument.real ? 1 : 0;
  }
  std::abort();
}

class ProgramBuilder {
 public:
  ProgramIndex index;
  std::vector<Bytes> expected;  // per tensor

  uint32_t tensor(DType dtype, std::vector<int64_t> shape, float scale = 1.0f, int32_t zero_point = 0) {
    TensorDef t;
    t.name = "t" + std::to_string(index.tensors.size());
    t.dtype = dtype;
    t.shape = std::move(shape);
    t.scale = scale;
    t.zero_point = zero_point;
    uint64_t bytes = 0;
    if (!tensor_bytes(t, &bytes)) std::abort();
    expected.emplace_back(bytes);
    index.tensors.push_back(t);
    return static_cast<uint32_t>(index.tensors.size() - 1);
  }

  /// `bytes`: as they are stored.
  uint32_t blob(const void* from, size_t bytes, Storage stored = Storage::kWhole) {
    BlobDef b;
    b.stored = stored;
    b.name = "b" + std::to_string(index.blobs.size());
    b.offset = blobs_.size();
    b.bytes = round_up(bytes, 64);
    blobs_.resize(blobs_.size() + b.bytes);
    if (bytes > 0) std::memcpy(blobs_.data() + b.offset, from, bytes);
    index.blobs.push_back(b);
    return static_cast<uint32_t>(index.blobs.size() - 1);
  }

  /// Packed weights whose codes lie in [-8, 7], as a file has them in 4 bits: equal parts, sums behind each one's
  /// codes.
  uint32_t blob_of_nibbles(const uint8_t* packed, uint32_t parts, size_t codes, size_t sum_bytes) {
    std::vector<uint8_t> stored(round_up(parts * codes / 2, 64) + parts * sum_bytes);
    uint8_t* sums = stored.data() + stored.size() - parts * sum_bytes;
    for (size_t i = 0; i < parts * codes; ++i) {
      const uint8_t code = packed[i / codes * (codes + sum_bytes) + i % codes] & 15;
      uint8_t& byte = stored[i / 64 * 32 + i % 32];
      byte = static_cast<uint8_t>(byte | (i % 64 < 32 ? code : code << 4));
    }
    for (size_t i = 0; i < parts; ++i)
      std::memcpy(sums + i * sum_bytes, packed + i * (codes + sum_bytes) + codes, sum_bytes);
    const uint32_t id = blob(stored.data(), stored.size(), Storage::kInt4);
    index.blobs[id].parts = parts;
    index.blobs[id].codes = codes;
    return id;
  }

  Step& step(StepKind kind, std::vector<uint32_t> in, uint32_t out, const Arguments& arguments = {}) {
    Step s;
    s.kind = kind;
    s.name = "n" + std::to_string(index.steps.size());
    s.op = "Op" + std::to_string(static_cast<int>(kind));
    s.in = std::move(in);
    s.out = {out};
    set_arguments(s, arguments);
    index.steps.push_back(std::move(s));
    return index.steps.back();
  }

  /// Random float input.
  uint32_t input(std::vector<int64_t> shape) {
    const uint32_t id = tensor(DType::kF32, std::move(shape));
    for (size_t i = 0; i < size(id); ++i) put(id, i, uniform(-2.0f, 2.0f));
    index.inputs.push_back(id);
    return id;
  }

  uint32_t constant(std::vector<int64_t> shape) {
    const uint32_t y = tensor(DType::kF32, std::move(shape));
    for (size_t i = 0; i < size(y); ++i) put(y, i, uniform(-2.0f, 2.0f));
    step(StepKind::kConstant, {}, y).blobs = {blob(expected[y].data(), expected[y].size())};
    return y;
  }

  /// The same bytes under another shape.
  uint32_t view(uint32_t x, std::vector<int64_t> shape) {
    const TensorDef& t = index.tensors[x];
    const uint32_t y = tensor(t.dtype, std::move(shape), t.scale, t.zero_point);
    index.tensors[y].alias_of = static_cast<int32_t>(x);
    expected[y] = expected[x];
    return y;
  }

  /// Plans the arena; one segment.
  void finish(std::vector<uint32_t> outputs) {
    index.producer = "core_tests";
    index.outputs = std::move(outputs);
    index.segments = {{0, static_cast<uint32_t>(index.steps.size())}};
    const auto root = [&](uint32_t id) {
      return index.tensors[id].alias_of < 0 ? id : static_cast<uint32_t>(index.tensors[id].alias_of);
    };
    const auto end = static_cast<int64_t>(index.steps.size());
    std::vector<Buffer> buffers(index.tensors.size());
    for (uint32_t id = 0; id < buffers.size(); ++id) buffers[id] = {-1, 0, root(id) == id ? expected[id].size() : 0};
    for (int64_t i = 0; i < end; ++i) {
      const Step& s = index.steps[static_cast<size_t>(i)];
      buffers[s.out[0]].lower = i;
      buffers[s.out[0]].upper = i + 1;
      for (const uint32_t id : s.in) buffers[root(id)].upper = i + 1;
    }
    for (const uint32_t id : index.outputs) buffers[root(id)].upper = end + 1;
    MemoryPlan plan;
    if (!plan_memory(buffers, 64, &plan).ok()) std::abort();
    for (uint32_t id = 0; id < buffers.size(); ++id) index.tensors[id].offset = plan.offsets[root(id)];
    index.arena_bytes = plan.peak;
  }

  /// The data section: aligned, and owned by the caller.
  AlignedBuffer data() const {
    AlignedBuffer buffer(blobs_.size());
    std::copy(blobs_.begin(), blobs_.end(), buffer.data());
    return buffer;
  }

 protected:
  template <typename T>
  T get(uint32_t id, size_t i) const {
    T v;
    std::memcpy(&v, expected[id].data() + i * sizeof(T), sizeof(T));
    return v;
  }
  template <typename T>
  void put(uint32_t id, size_t i, T v) {
    std::memcpy(expected[id].data() + i * sizeof(T), &v, sizeof(T));
  }
  void set(uint32_t id, size_t i, float x) {
    const QuantParams q = quant_of(index.tensors[id]);
    expected[id][i] = quantized(x, q, low(q), low(q) + 255);
  }
  static float low(const QuantParams& q) { return static_cast<float>((q.sign == Sign::kU8 ? 0 : -128) - q.zero_point); }
  size_t size(uint32_t id) const { return expected[id].size() / dtype_bytes(index.tensors[id].dtype); }

 private:
  std::vector<uint8_t> blobs_;
};

}  // namespace ek::test
