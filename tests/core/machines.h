// Machines that no one has: how work is cut may follow them, not one bit of a result.
#pragma once

#include <cstdint>
#include <limits>

#include "cpu/machine.h"

namespace ek::test {

/// No caches and threads for nothing, so that every row and panel is a part of its own; and all in one part.
inline constexpr Machine kMachines[] = {
    {1, 1, 0.0}, {96 << 10, 64 << 10, 0.5}, {SIZE_MAX / 2, SIZE_MAX / 2, std::numeric_limits<double>::infinity()}};

/// The core takes the machine for its own for as long as this object lives.
class OnMachine {
 public:
  explicit OnMachine(const Machine& machine) { pretend_machine(&machine); }
  ~OnMachine() { pretend_machine(nullptr); }
  OnMachine(const OnMachine&) = delete;
  OnMachine& operator=(const OnMachine&) = delete;
};

}  // namespace ek::test
