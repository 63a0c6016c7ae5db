// sha256_blocks_armv8: the SHA-256 instructions that Armv8 has as an option (FEAT_SHA256).
//
// State      two registers: a b c d and e f g h.
// Method     four words of the message at a time: sha256su0 and sha256su1 make them from the sixteen before;
//            sha256h and sha256h2 do four rounds on one half of the state each.
// Bounds     reads 64 bytes a block, at any address.
#include <arm_neon.h>

#include "kernels/sha256.h"

namespace ek {

void sha256_blocks_armv8(uint32_t* state, const uint8_t* data, size_t blocks) {
  uint32x4_t abcd = vld1q_u32(state), efgh = vld1q_u32(state + 4);
  for (; blocks > 0; --blocks, data += 64) {
    const uint32x4_t abcd_before = abcd, efgh_before = efgh;
    uint32x4_t w[4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if (i < 4) {
        w[i] = vreinterpretq_u32_u8(vrev32q_u8(vld1q_u8(data + 16 * i)));
      } else {
        w[i % 4] = vsha256su1q_u32(vsha256su0q_u32(w[i % 4], w[(i + 1) % 4]), w[(i + 2) % 4], w[(i + 3) % 4]);
      }
      const uint32x4_t with_constants = vaddq_u32(w[i % 4], vld1q_u32(kSha256Constants + 4 * i));
      const uint32x4_t abcd_now = abcd;
      abcd = vsha256hq_u32(abcd, efgh, with_constants);
      efgh = vsha256h2q_u32(efgh, abcd_now, with_constants);
    }
    abcd = vaddq_u32(abcd, abcd_before);
    efgh = vaddq_u32(efgh, efgh_before);
  }
  vst1q_u32(state, abcd);
  vst1q_u32(state + 4, efgh);
}

}  // namespace ek
