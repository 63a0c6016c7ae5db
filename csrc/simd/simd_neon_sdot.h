// simd_neon_sdot: dot() as sdot, shared by neon_dotprod and by the parts of neon_i8mm that have no matrix to multiply.
#pragma once

#include "simd/simd_neon_base.h"

namespace ek {
namespace {

EK_INLINE I32 dot(I32 acc, Act a, Line w) {
  return {vdotq_s32(acc.v0, a.v, w.v0), vdotq_s32(acc.v1, a.v, w.v1), vdotq_s32(acc.v2, a.v, w.v2),
          vdotq_s32(acc.v3, a.v, w.v3)};
}
EK_INLINE I32 dot(I32 acc, Line a, Line w) {
  return {vdotq_s32(acc.v0, a.v0, w.v0), vdotq_s32(acc.v1, a.v1, w.v1), vdotq_s32(acc.v2, a.v2, w.v2),
          vdotq_s32(acc.v3, a.v3, w.v3)};
}
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) { return dot(acc, a, less_128(w)); }
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) { return dot(acc, a, w); }

}  // namespace
}  // namespace ek
