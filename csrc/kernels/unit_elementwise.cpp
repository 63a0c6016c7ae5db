#include "kernels/elementwise.inl"
#include "kernels/probes.inl"
#include "kernels/transpose.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(elementwise)(ElementwiseKernels* table) {
  table->flip_sign = flip_sign;
  table->quantize = quantize;
  table->quantize_triples = quantize_triples;
  table->dequantize = dequantize;
  table->quantize_columns = quantize_columns;
  table->dequantize_columns = dequantize_columns;
  table->quantize_rows = quantize_rows;
  table->add = add;
  table->lookup = lookup;
  table->transpose = transpose;
  table->sum_rows = sum_rows;
  table->max_rows = max_rows;
  table->requantize = requantize;
  table->fold_scales = fold_scales;
  table->fold_bias = fold_bias;
}

void EK_FILL(probes)(ProbeKernels* table) {
  table->dot_burst = dot_burst;
  table->read_stream = read_stream;
}

}  // namespace ek
