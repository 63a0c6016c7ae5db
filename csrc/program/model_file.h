// All that an .ekm file holds for who runs it without Python: the programs of its modes and sizes, and what the
// manifest calls them. Of the manifest's JSON no more is read than that (docs/ekm-format.md).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"
#include "program/container.h"
#include "program/program.h"

namespace ek {

/// A dimension of inputs and outputs of which a file has several sizes (docs/sizes.md).
struct SizedDimension {
  std::string name;
  std::vector<int64_t> sizes;  // ascending
  bool rows = false;           // results of one row are independent of the others
};

struct ModelFile {
  /// Those of the first mode, one a combination of sizes, the last dimension's side by side; then of the next mode.
  /// All over one table of blobs, each valid, without host steps.
  std::vector<ProgramIndex> programs;
  std::vector<std::string> modes;  // none where there is one
  std::vector<SizedDimension> dimensions;
  std::vector<std::string> input_names, output_names;
  const uint8_t* data = nullptr;  // the data section
  uint64_t data_bytes = 0;

  size_t num_modes() const { return modes.empty() ? 1 : modes.size(); }
  size_t num_sizes() const { return programs.size() / num_modes(); }
};

/// As open_container(), and for every program that the file holds. Refuses host steps, by their names. A file whose
/// header has no manifest is one program, whose tensors' names are those of inputs and outputs.
Status read_model(const uint8_t* file, size_t size, const std::string& source, Verify verify, ModelFile* model);

}  // namespace ek
