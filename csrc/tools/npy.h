// Arrays in NumPy's .npy files, read with every byte of the header checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace npy {

struct Array {
  std::string type;  // as NumPy writes it: "<f4", "|u1"
  std::vector<int64_t> shape;
  std::vector<uint8_t> bytes;  // row by row
};

/// Throws std::runtime_error, with the path, of a file that is no .npy file, in Fortran's order, or of another length.
Array read(const std::string& path);
/// Throws where the file cannot be written whole.
void write(const std::string& path, const Array& array);

/// "(1, 3)"
std::string shape_text(const std::vector<int64_t>& shape);

}  // namespace npy
