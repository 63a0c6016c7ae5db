// The embedding table as a file holds it: rows are decoded one at a time, when a token asks for them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

enum class RowCode : int { kF32 = 0, kF16 = 1, kBf16 = 2, kQ8_0 = 3, kQ4_0 = 4 };  // the last two: GGUF's blocks of 32

struct EmbeddingTable {
  const uint8_t* rows = nullptr;
  size_t row_bytes = 0, vocab = 0, dim = 0;
  RowCode code = RowCode::kF32;
};

/// Bytes of `dim` values; 0 where dim is no whole number of blocks.
size_t row_bytes_of(RowCode code, size_t dim);

/// The row of a token below vocab, as floats. False: a value is NaN or infinite.
bool read_embedding(const EmbeddingTable& table, size_t token, float* out);

}  // namespace ek
