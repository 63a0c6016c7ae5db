// The kernel bodies, compiled for avx512vnni. CMakeLists.txt gives this file its flags, and no other.
#define EK_SIMD_HEADER "simd/simd_avx512vnni.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_avx512vnni)
