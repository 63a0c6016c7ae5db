#include "kernels/decoder.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(decoder)(DecoderKernels* table) {
  table->sum_squares = sum_squares;
  table->norm_row = norm_row;
  table->norm_quantize_row = norm_quantize_row;
  table->rotate_row = rotate_row;
  table->f32_tile = f32_tile;
}

}  // namespace ek
