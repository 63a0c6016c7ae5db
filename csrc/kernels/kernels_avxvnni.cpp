// The kernel bodies, compiled for avxvnni. CMakeLists.txt gives this file its flags, and no other.
#include "simd/simd_avxvnni.h"

#include "kernels/bodies.inl"

EK_DEFINE_KERNELS(kernels_avxvnni)
