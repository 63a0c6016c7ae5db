// The avxvnni bodies with EVEX-encoded instructions, for machines with AVX-512 VNNI but without AVX-VNNI.
#define EK_SIMD_HEADER "simd/simd_avxvnni.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_avxvnni_evex)
