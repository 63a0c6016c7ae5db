// The kernel bodies, compiled for scalar. CMakeLists.txt gives this file its flags, and no other.
#define EK_SIMD_HEADER "simd/simd_scalar.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_scalar)
