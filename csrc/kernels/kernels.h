// The kernel table: one struct of function pointers per ISA. Everything above asks the table; nothing above knows an
// intrinsic.
//
// Kernels are leaves: they get everything as arguments and give back numbers. They may read and write exactly the
// bytes their arguments name (a guard-page test holds them to it) and allocate nothing.
#pragma once

#include "cpu/isa.h"
#include "kernels/attention_f32.h"
#include "kernels/decoder.h"
#include "kernels/depthwise.h"
#include "kernels/depthwise_f32.h"
#include "kernels/elementwise.h"
#include "kernels/epilogue.h"
#include "kernels/gemm.h"
#include "kernels/gemm_f32.h"
#include "kernels/gemm_int2.h"
#include "kernels/gemm_int4.h"
#include "kernels/kv.h"
#include "kernels/map.h"
#include "kernels/probes.h"
#include "kernels/recurrent.h"
#include "kernels/rows.h"
#include "kernels/sampling.h"
#include "kernels/wide.h"
#include "kernels/words.h"

namespace ek {

/// The kernels of one ISA, trade by trade. Each trade's header says what its kernels take and give.
struct Kernels : GemmKernels,
                 DepthwiseKernels,
                 Int4Kernels,
                 Int2Kernels,
                 F32Kernels,
                 F32DepthwiseKernels,
                 F32AttentionKernels,
                 ElementwiseKernels,
                 MapKernels,
                 RowKernels,
                 KvKernels,
                 DecoderKernels,
                 SamplingKernels,
                 WordKernels,
                 RecurrentKernels,
                 WideKernels,
                 ProbeKernels {
  Isa isa;
};

/// Every pointer of the table, by name: X(name) for each. Each trade's header lists its own.
#define EK_KERNELS(X)         \
  EK_GEMM_KERNELS(X)          \
  EK_DEPTHWISE_KERNELS(X)     \
  EK_INT4_KERNELS(X)          \
  EK_INT2_KERNELS(X)          \
  EK_F32_KERNELS(X)           \
  EK_F32_DEPTHWISE_KERNELS(X) \
  EK_F32_ATTENTION_KERNELS(X) \
  EK_ELEMENTWISE_KERNELS(X)   \
  EK_MAP_KERNELS(X)           \
  EK_ROW_KERNELS(X)           \
  EK_KV_KERNELS(X)            \
  EK_DECODER_KERNELS(X)       \
  EK_SAMPLING_KERNELS(X)      \
  EK_WORD_KERNELS(X)          \
  EK_RECURRENT_KERNELS(X)     \
  EK_WIDE_KERNELS(X)          \
  EK_PROBE_KERNELS(X)

/// The table of an ISA that available_isas() lists.
const Kernels& kernels(Isa isa);

/// What an operator needs besides its operands.
struct Runtime {
  const Kernels* kernels;
  int threads = 1;
};

}  // namespace ek
