// The units of every ISA, put together: what csrc/kernels/unit.h's files define.
#pragma once

#include "kernels/kernels.h"

// Isa::id is compiled as kernels_<isa>.
#define EK_DECLARE_KERNELS(isa_name, id)                    \
  namespace ek {                                            \
  void fill_gemm_##isa_name(GemmKernels*);                  \
  void fill_gemm_int4_##isa_name(Int4Kernels*);             \
  void fill_gemm_int2_##isa_name(Int2Kernels*);             \
  void fill_gemm_f32_##isa_name(F32Kernels*);               \
  void fill_depthwise_f32_##isa_name(F32DepthwiseKernels*); \
  void fill_attention_f32_##isa_name(F32AttentionKernels*); \
  void fill_depthwise_##isa_name(DepthwiseKernels*);        \
  void fill_elementwise_##isa_name(ElementwiseKernels*);    \
  void fill_map_##isa_name(MapKernels*);                    \
  void fill_rows_##isa_name(RowKernels*);                   \
  void fill_probes_##isa_name(ProbeKernels*);               \
  void fill_decoder_##isa_name(DecoderKernels*);            \
  void fill_kv_##isa_name(KvKernels*);                      \
  void fill_sampling_##isa_name(SamplingKernels*);          \
  void fill_words_##isa_name(WordKernels*);                 \
  void fill_recurrent_##isa_name(RecurrentKernels*);        \
  void fill_wide_##isa_name(WideKernels*);                  \
  inline Kernels make_kernels_##isa_name() {                \
    Kernels table{};                                        \
    table.isa = Isa::id;                                    \
    fill_gemm_##isa_name(&table);                           \
    fill_gemm_int4_##isa_name(&table);                      \
    fill_gemm_int2_##isa_name(&table);                      \
    fill_gemm_f32_##isa_name(&table);                       \
    fill_depthwise_f32_##isa_name(&table);                  \
    fill_attention_f32_##isa_name(&table);                  \
    fill_depthwise_##isa_name(&table);                      \
    fill_elementwise_##isa_name(&table);                    \
    fill_map_##isa_name(&table);                            \
    fill_rows_##isa_name(&table);                           \
    fill_probes_##isa_name(&table);                         \
    fill_decoder_##isa_name(&table);                        \
    fill_kv_##isa_name(&table);                             \
    fill_sampling_##isa_name(&table);                       \
    fill_words_##isa_name(&table);                          \
    fill_recurrent_##isa_name(&table);                      \
    fill_wide_##isa_name(&table);                           \
    return table;                                           \
  }                                                         \
  }
