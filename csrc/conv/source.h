// What every convolution needs before its loops, and how its output pixels are shared out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"

namespace ek {

constexpr size_t kLine = 64;

/// The input in native sign, and zero points to stand for the padding.
struct Source {
  const uint8_t* x;
  size_t bytes;          // of x
  const uint8_t* zeros;  // as many as make_source was asked for
  uint8_t* rest;         // scratch that is left
};

size_t source_bytes(const Runtime& rt, const ConvArgs& args, size_t zeros);
Source make_source(const Runtime& rt, const ConvArgs& args, size_t zeros, uint8_t* scratch);

/// How output pixels or rows are shared out.
struct Tasks {
  size_t count, per_task;
};
/// About `per_thread` tasks for each of several threads, one task for one thread.
Tasks split_work(int threads, size_t per_thread, size_t units, size_t granule);

double conv_macs(const ConvArgs& args);
inline size_t item_bytes(const Epilogue& e) { return e.kind == OutKind::kQuantized ? 1 : 4; }

}  // namespace ek
