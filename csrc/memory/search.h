// The exact search: do these buffers fit into so many bytes? It answers yes with a place for each, no, or that its
// limit was too small to know.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "memory/planner.h"

namespace ek {

/// What a search may spend, and what it has spent.
struct Effort {
  uint64_t most_nodes = 0;
  std::chrono::steady_clock::time_point end = std::chrono::steady_clock::time_point::max();
  uint64_t nodes = 0;

  bool spent() const { return nodes >= most_nodes || late; }
  bool late = false;  // the clock said so
};

enum class Fits { kYes, kNo, kUnknown };

/// Buffers of positive size and lifetime; offsets come out as sums of sizes, so that they keep the sizes' alignment.
/// Deterministic, as long as the clock does not end it.
Fits search_fit(const std::vector<Buffer>& buffers, uint64_t capacity, Effort* effort, std::vector<uint64_t>* offsets);

/// Searches for plans smaller than `plan`: at the lower bound first, then by halves between what is proved and what is
/// found. Buffers are aligned already. What it finds passes check_plan. Leaves plans of very many buffers as they are.
Status improve_plan(const std::vector<Buffer>& buffers, uint64_t alignment, const SearchLimits& limits,
                    MemoryPlan* plan);

}  // namespace ek
