// A planning problem as the exact search sees it: sizes in a common unit, time in sections.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/planner.h"

namespace ek {

/// A buffer of `size` units that is alive in the sections [first, end); `id` is its index in the problem.
struct Item {
  size_t first, end;
  int64_t size;
  size_t id;
};

/// A section is a stretch of time whose buffers are all of those alive at one moment and no part of another section's.
/// Buffers are alive together exactly where they share a section.
struct Sections {
  uint64_t unit = 1;                           // bytes; divides all sizes
  std::vector<Item> items;                     // sorted by their first section
  std::vector<std::vector<size_t>> members;    // of each section
  std::vector<std::vector<size_t>> neighbors;  // of each item: those that share a section with it
  std::vector<std::vector<size_t>> twins;      // of each item: those in the same sections
};

/// Of buffers that have positive sizes and lifetimes.
Sections sections_of(const std::vector<Buffer>& buffers);

/// Several orders in which a search may try items: for each, the rank of every item.
std::vector<std::vector<size_t>> ranks_of(const Sections& problem);

}  // namespace ek
