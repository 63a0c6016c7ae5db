#include "kernels/rows.inl"
#include "kernels/scan.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(rows, RowKernels, EK_ROW_KERNELS)

}  // namespace ek
