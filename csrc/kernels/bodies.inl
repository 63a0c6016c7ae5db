// All kernel bodies over the vectors of EK_SIMD_HEADER, and the table row that names them.

#include "kernels/depthwise.inl"
#include "kernels/depthwise_3x3.inl"
#include "kernels/elementwise.inl"
#include "kernels/gemm_tile.inl"
#include "kernels/probes.inl"
#include "kernels/w4.inl"

#define EK_DEFINE_KERNELS(name)                                                                            \
  namespace ek {                                                                                           \
  extern const Kernels name;                                                                               \
  const Kernels name = {kIsa,          kNativeSign,  kTileRows,  kTileStrips, gemm_tile, depthwise_row,    \
                        depthwise_3x3, w4_quantize,  w4_tile,    flip_sign,   quantize,  quantize_triples, \
                        dequantize,    quantize_row, add,        lookup,      sum_rows,  max_rows,         \
                        requantize,    dot_burst,    read_stream};                                         \
  }
