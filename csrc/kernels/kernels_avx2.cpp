// The kernel bodies, compiled for avx2. CMakeLists.txt gives this file its flags, and no other.
#define EK_SIMD_HEADER "simd/simd_avx2.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_avx2)
