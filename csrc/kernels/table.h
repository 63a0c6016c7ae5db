// Where a test gets between operators and kernels; operators and their callers need kernels/kernels.h alone.
#pragma once

#include "kernels/kernels.h"

namespace ek {

/// From now on kernels(isa) is `table`, which the caller keeps for as long as anything uses it; null: the ISA's own
/// again. What was made before stays with the table that it has. Returns the table of before.
const Kernels& replace_kernels(Isa isa, const Kernels* table);

}  // namespace ek
