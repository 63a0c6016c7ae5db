#include "kernels/decoder.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(decoder)(DecoderKernels* table) { EK_DECODER_KERNELS(EK_SET) }

}  // namespace ek
