#include "kernels/decoder.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(decoder, DecoderKernels, EK_DECODER_KERNELS)

}  // namespace ek
