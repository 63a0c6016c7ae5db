// The units of every ISA, put together: what csrc/kernels/unit.h's files define.
#pragma once

#include "kernels/kernels.h"

#define EK_DECLARE_KERNELS(isa)          \
  namespace ek {                         \
  void fill_gemm_##isa(Kernels*);        \
  void fill_w4_##isa(Kernels*);          \
  void fill_depthwise_##isa(Kernels*);   \
  void fill_elementwise_##isa(Kernels*); \
  void fill_decoder_##isa(Kernels*);     \
  void fill_kv_##isa(Kernels*);          \
  inline Kernels make_kernels_##isa() {  \
    Kernels table{};                     \
    fill_gemm_##isa(&table);             \
    fill_w4_##isa(&table);               \
    fill_depthwise_##isa(&table);        \
    fill_elementwise_##isa(&table);      \
    fill_decoder_##isa(&table);          \
    fill_kv_##isa(&table);               \
    return table;                        \
  }                                      \
  }
