// Which instruction sets this build knows, this machine has, and the caller asked for.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace ek {

enum class Isa : int { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kNeon, kNeonDotprod, kNeonI8mm };
inline constexpr int kNumIsas = 7;

const char* isa_name(Isa isa);

/// Best first; the scalar row is last and always there. A build that leaves it out may have none here.
const std::vector<Isa>& available_isas();

/// Resolves a name; "" is default_isa(). Refuses what the machine lacks.
Status resolve_isa(const std::string& name, Isa* isa);

/// The instruction set of calls that name none: EDGEKERN_ISA where it is set, else the best. The environment is read
/// once: beside another thread's setenv that is a race, and it takes as long as all checks of a small product.
const Status& default_isa(Isa* isa);

}  // namespace ek
