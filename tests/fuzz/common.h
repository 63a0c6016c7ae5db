// What the fuzz targets share: a count of the inputs that got through, and a program that runs.
#pragma once

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>
#include <vector>

#include "base/buffer.h"
#include "program/program.h"
#include "program/session.h"
#include "small_program.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace ek::fuzz {

/// Printed when the process ends; run.py adds it up. A target that accepts nothing tests the first check alone.
struct Accepted {
  size_t count = 0;
  ~Accepted() { std::fprintf(stderr, "stat::accepted_inputs: %zu\n", count); }
};
inline Accepted accepted;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

constexpr uint64_t kMostBytes = uint64_t{1} << 20, kMostWork = uint64_t{1} << 23;

/// Whether a valid program is small enough to be run thousands of times.
inline bool is_small(const ProgramIndex& index) {
  uint64_t work = 0;
  for (Step step : index.steps) {
    uint64_t bytes = 0, each = 64;
    if (!tensor_bytes(index.tensors[step.out[0]], &bytes)) return false;
    const auto argument = [&](const char* name) { return static_cast<uint64_t>(test::integer(step, name)); };
    switch (step.kind) {
      case StepKind::kGemm:
        each = argument("k");
        break;
      case StepKind::kConv:
        each = argument("kernel_h") * argument("kernel_w") * (argument("in_channels") / argument("groups"));
        break;
      case StepKind::kDepthwise:
      case StepKind::kMaxPool:
      case StepKind::kAveragePool:
        each = argument("kernel_h") * argument("kernel_w");
        break;
      case StepKind::kPoolF32:
        for (size_t axis = 0; axis < 3; ++axis) {
          each = std::min(kMostWork + 1, each * static_cast<uint64_t>(test::integer(step, "kernel", axis)));
        }
        break;
      case StepKind::kResample:
        each = argument("taps");
        break;
      default:
        break;
    }
    if (each > kMostWork || bytes > kMostWork) return false;
    work += bytes * each;
  }
  return index.arena_bytes <= kMostBytes && work <= kMostWork;
}

/// Validates; what is valid and small becomes a session and runs, on two threads, borders and all.
inline void run(const ProgramIndex& index, const uint8_t* data, uint64_t data_bytes) {
  if (!validate(index, data_bytes).ok() || !is_small(index)) return;
  std::unique_ptr<Session> session;
  const Status made = Session::create(index, data, data_bytes, available_isas().front(), 2, &session);
  require(made.ok() || made.code() == Code::kNoMemory, "a valid program makes a session");
  if (!made.ok()) return;
  std::vector<std::vector<uint8_t>> held;
  std::vector<const void*> inputs;
  std::vector<void*> outputs;
  const auto hold = [&](uint32_t id) -> uint8_t* {
    return held.emplace_back(static_cast<size_t>(session->tensor_bytes(id)) + 1, uint8_t{7}).data();
  };
  for (const uint32_t id : index.inputs) inputs.push_back(hold(id));
  for (const uint32_t id : index.outputs) outputs.push_back(hold(id));
  static_cast<void>(session->run(inputs.data(), outputs.data()));  // an index in the data may leave its axis
  for (size_t i = 0; i < index.segments.size(); ++i) static_cast<void>(session->run_segment(i));
  ++accepted.count;
}

/// Bytes for all blobs of an index: any, the same every time.
inline AlignedBuffer any_data(const ProgramIndex& index) {
  uint64_t size = 64;
  for (const BlobDef& b : index.blobs) {
    if (b.offset < kMostBytes && b.bytes < kMostBytes) size = std::max(size, b.offset + b.bytes);
  }
  AlignedBuffer data(static_cast<size_t>(size));
  for (size_t i = 0; i < data.size(); ++i) data.data()[i] = static_cast<uint8_t>(i * 197 >> 3);
  return data;
}

}  // namespace ek::fuzz
