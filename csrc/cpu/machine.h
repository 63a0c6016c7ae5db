// What of this machine decides how work is cut, and never what comes out of it: its caches, what a thread costs, how
// fast a core multiplies. What is too small for a second thread, and what stays in the caches, is asked here; how large
// the pieces are that threads share is not.
#pragma once

#include <cstddef>

#include "cpu/isa.h"

namespace ek {

struct Machine {
  size_t l2_bytes;          // of one core
  size_t last_level_bytes;  // of the largest cache
  double wake_us;           // what another thread costs: work that takes one core no longer is not shared
};

/// This machine, read once: as the system tells it, else as a server core has it.
const Machine& machine();
/// Another one from now on; null: this one again. For tests, which keep it alive, while nothing else runs.
void pretend_machine(const Machine* other);

/// Operands that are passed over again and again while others stream by: half of the L2, at most 512 KiB.
size_t resident_bytes();
/// Results past that push operands out of the caches, and are no longer there when they are read.
size_t stream_bytes();

/// 8-bit multiply-adds that one core does in a microsecond where its operands lie in its L2.
double macs_per_us(Isa isa);
/// The same of float32 ones.
double f32_macs_per_us(Isa isa);
/// Whether work that takes one core so many microseconds is worth a second thread.
bool worth_a_thread(double us);

}  // namespace ek
