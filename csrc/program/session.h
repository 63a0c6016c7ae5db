// A session: a validated program with its arena and prepared steps. Running allocates nothing.
//
// One caller at a time: the arena is one. Whoever shares a session between threads takes turns outside.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "program/program.h"

namespace ek {

class Session {
 public:
  /// Validates `index` against `data` (the file's data section, 64-byte aligned; must outlive the session) and prepares
  /// every step for an ISA that available_isas() lists.
  static Status create(ProgramIndex index, const uint8_t* data, uint64_t data_bytes, Isa isa, int threads,
                       std::unique_ptr<Session>* out);
  ~Session();

  const ProgramIndex& index() const;
  uint8_t* tensor(uint32_t id);  // its bytes in the arena
  uint64_t tensor_bytes(uint32_t id) const;
  /// The code that a step runs: "tile", "thin", "shallow", "gemv", "depthwise", "lookup", "move", ...
  const char* path(size_t step) const;
  /// All segments on the caller's arrays, in the order of the index; an output that is null is not wanted. What is only
  /// converted or transposed at the border is read and written there, the rest is copied to and from the arena.
  void run(const void* const* inputs, void* const* outputs) noexcept;
  // On what lies in the arena: steps in order, or one of them, for profiling and comparing.
  void run_segment(size_t segment) noexcept;
  void run_step(size_t step) noexcept;
  /// Makes it ready again where a run was begun and never ends: in the child of a fork.
  void forget_run();
  uint64_t arena_bytes() const;  // arena + scratch + prepared accumulator starts: all that the session owns

 private:
  Session();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ek
