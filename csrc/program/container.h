// An .ekm file: held to its format and its hashes, rule by rule (docs/ekm-format.md), and where its parts lie. No JSON
// is parsed: the header's bytes have a hash in the index, and nothing in them is needed to run a program of kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "base/status.h"
#include "program/program.h"

namespace ek {

/// Which hashes are compared when a file is opened: all, or all but those of the blobs.
enum class Verify { kFull, kLazy };

struct ContainerView {
  ProgramIndex index;             // that validate() lets pass
  size_t start = 0;               // of the data section
  size_t index_bytes = 0;         // of the encoded index, which the data section starts with
  const uint8_t* data = nullptr;  // the data section: BlobDef offsets count from here
  uint64_t data_bytes = 0;
};

/// `file` outlives the view; `source` names it in errors, which are kCorrupt, but kValue for a
/// kind of step that this build leaves out: "'model.ekm'", "the bytes given". Large
/// files are hashed on two threads.
Status open_container(const uint8_t* file, size_t size, const std::string& source, Verify verify, ContainerView* view);

}  // namespace ek
