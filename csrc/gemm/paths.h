// The ways to multiply, best first. gemm() and conv() ask this list, and through gemm() linear and the decoder; so does
// whoever reports what runs. A new one is a function of its own and a line in paths.cpp.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "gemm/gemm.h"

namespace ek {

/// A part of C; col0 is a multiple of the panel.
struct Rect {
  size_t row0, row1, col0, col1;
};

struct Path {
  const char* name;
  const char* key;  // of it alone: what measured paths are chosen by
  size_t rows;      // most rows at a time: what a RowTable has room for
  size_t panels;    // whole panels that it needs side by side: no thread gets fewer
  bool (*takes)(const Kernels& kernels, const GemmArgs& args);
  /// `strips`: how wide a tile may be, of 16 columns each.
  void (*run)(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t strips);
};

/// The one that the product names, where it takes it; else the first that does. The last one takes all.
const Path& path_of(const Kernels& kernels, const GemmArgs& args);
/// Keys of all that take the product, best first.
std::vector<const char*> paths_for(const Kernels& kernels, const GemmArgs& args);
/// Null for a key that there is not.
const Path* find_path(const std::string& key);

}  // namespace ek
