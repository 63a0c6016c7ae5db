// An .ekm file as C++ sees it: where its index and its data lie. No JSON is parsed; Python's artifact room holds a file
// to its hashes, this only to its structure, which is all that memory safety needs.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "program/program.h"

namespace ek {

struct ContainerView {
  ProgramIndex index;             // decoded, not yet validated
  const uint8_t* data = nullptr;  // the data section: BlobDef offsets count from here
  uint64_t data_bytes = 0;
};

/// Reads `u64 header_bytes | header | index | ...`. `file` is 64-byte aligned and outlives the view.
Status open_container(const uint8_t* file, size_t size, ContainerView* view);

}  // namespace ek
