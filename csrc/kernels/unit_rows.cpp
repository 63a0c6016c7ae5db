#include "kernels/rows.inl"
#include "kernels/scan.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(rows)(RowKernels* table) { EK_ROW_KERNELS(EK_SET) }

}  // namespace ek
