// The kernel bodies, compiled for avxvnni. CMakeLists.txt gives this file its flags, and no other.
#define EK_SIMD_HEADER "simd/simd_avxvnni.h"
#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_avxvnni)
