// Depthwise convolution of few channels: a row of the output is one run of bytes, whatever its channels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"
#include "conv/source.h"

namespace ek {

/// Whether rows are computed as runs: channels are few, and vectors of them would be mostly empty.
bool by_runs(const ConvArgs& args);
/// Zero points that make_source has to give.
size_t runs_zeros_bytes(const ConvArgs& args);
/// Scratch for so many tasks.
size_t runs_bytes(const ConvArgs& args, size_t tasks);
/// Brings weights, starts and multipliers into order in the scratch, before its tasks.
void spread_runs(const Runtime& rt, const ConvArgs& args, uint8_t* scratch);
/// Rows [begin, end) of the output, counted over the batch, by one of the tasks.
void run_rows(const Runtime& rt, const ConvArgs& args, const Source& source, uint8_t* scratch, size_t task,
              size_t begin, size_t end);

}  // namespace ek
