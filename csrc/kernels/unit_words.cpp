#include "kernels/unit.h"
#include "kernels/words.inl"

namespace ek {

void EK_FILL(words)(WordKernels* table) { EK_WORD_KERNELS(EK_SET) }

}  // namespace ek
