// A session: a validated program with its arena and prepared steps. Running allocates nothing.
//
// One caller at a time: the arena is one. Whoever shares a session between threads takes turns outside; so does who
// runs sessions that share an arena.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "kernels/kernels.h"
#include "program/container.h"
#include "program/program.h"
#include "weights/source.h"

namespace ek {

class Session;

/// What a new session takes over from others on the same weights, with the same table of blobs; null: it has its own.
struct Beside {
  const Session* arena = nullptr;    // arena and scratch: one of the two runs at a time
  const Session* weights = nullptr;  // what the file has as halves or 4 bits, widened
};

/// How a step runs that was measured. Results have the same bits, whatever is chosen.
struct Choice {
  std::string path;    // key of a path of gemm/paths.h, which must take the step; empty: the best by rule
  bool alone = false;  // on one thread
};

class Session {
 public:
  /// Opens an .ekm file, which is mapped and held to its format and hashes (open_container()). Refuses programs with
  /// host steps, which Python's InferenceSession runs.
  static Status open(const std::string& path, Verify verify, Isa isa, int threads, std::unique_ptr<Session>* out);
  /// The same for a file in memory, which starts at a multiple of 64 and outlives the session.
  static Status open(const uint8_t* file, size_t size, Verify verify, Isa isa, int threads,
                     std::unique_ptr<Session>* out);
  /// Validates `index` against its weights, a file's data section, and prepares every step for an ISA that
  /// available_isas() lists. Compares no hashes: open() does. Host steps are the caller's. `choices`: one a step, or
  /// none at all.
  static Status create(ProgramIndex index, std::unique_ptr<WeightSource> weights, Isa isa, int threads,
                       std::unique_ptr<Session>* out, Beside beside = {}, const std::vector<Choice>& choices = {});
  /// The same on weights in memory, which start at a multiple of 64 and outlive the session.
  static Status create(ProgramIndex index, const uint8_t* data, uint64_t data_bytes, Isa isa, int threads,
                       std::unique_ptr<Session>* out, Beside beside = {}, const std::vector<Choice>& choices = {});
  ~Session();

  const ProgramIndex& index() const;
  uint8_t* tensor(uint32_t id);  // its bytes in the arena
  uint64_t tensor_bytes(uint32_t id) const;
  /// The code that a step runs: "tile", "thin", "shallow", "gemv", "depthwise", "lookup", "move", ...
  const char* path(size_t step) const;
  /// Keys of the paths that it could take, best first; none where there is nothing to choose.
  const std::vector<const char*>& choices(size_t step) const;
  /// All segments on the caller's arrays, in the order of the index; an output that is null is not wanted. What is only
  /// converted or transposed at the border is read and written there, the rest is copied to and from the arena. Fails
  /// where an index in a tensor leaves its axis: the outputs are written, and hold zeros where it was used.
  Status run(const void* const* inputs, void* const* outputs) noexcept;
  /// What the last run() copied between the caller's arrays and the arena.
  uint64_t bytes_copied() const;
  // On what lies in the arena: steps in order, or one of them, for profiling and comparing.
  Status run_segment(size_t segment) noexcept;
  Status run_step(size_t step) noexcept;
  /// Where later runs write the nanoseconds of each step; null, as in the beginning: nowhere, and no clock is read.
  void set_clock(uint64_t* nanoseconds) noexcept;
  /// Makes it ready again where a run was begun and never ends: in the child of a fork.
  void forget_run();
  /// Arena, scratch, prepared accumulator starts, widened halves and 4 bits: all that the session has and takes from no
  /// other.
  uint64_t arena_bytes() const;

 private:
  Session();
  /// create() behind its validation, which open_container() has done already.
  static Status create_valid(ProgramIndex index, std::unique_ptr<WeightSource> weights, Isa isa, int threads,
                             std::unique_ptr<Session>* out, Beside beside = {},
                             const std::vector<Choice>& choices = {});
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ek
