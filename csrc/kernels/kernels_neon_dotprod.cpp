// The kernel bodies, compiled for neon_dotprod. CMakeLists.txt gives this file its flags, and no other.
#define EK_SIMD_HEADER "simd/simd_neon_dotprod.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_neon_dotprod)
