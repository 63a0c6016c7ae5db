#include "kernels/unit.h"
#include "kernels/words.inl"

namespace ek {

EK_TRADE(words, WordKernels, EK_WORD_KERNELS)

}  // namespace ek
