// The kernel bodies, compiled for neon_dotprod. CMakeLists.txt gives this file its flags, and no other.
#include "simd/simd_neon_dotprod.h"

#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_neon_dotprod)
