// Blobs that a file has smaller than steps read them, as they are read: once, when a session is created.
#pragma once

#include <cstdint>
#include <vector>

#include "base/buffer.h"
#include "kernels/kernels.h"
#include "program/program.h"
#include "weights/source.h"

namespace ek {

/// By the number of the blob; those that the file has whole are empty.
using Widened = std::vector<AlignedBuffer>;

/// Halves as float32, 4 bits as 8. Fails like any allocation where they and `taken` bytes are more than there can be.
Widened widen_blobs(const ProgramIndex& index, WeightSource& weights, const Runtime& rt, uint64_t taken);

}  // namespace ek
