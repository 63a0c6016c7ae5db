// Which instruction sets this build knows, this machine has, and the caller asked for.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace ek {

enum class Isa : int { kScalar, kAvx2, kAvxVnni, kAvx512Vnni, kNeon, kNeonDotprod, kNeonI8mm };
inline constexpr int kNumIsas = 7;

const char* isa_name(Isa isa);

/// Best first; the scalar row is last and always there.
const std::vector<Isa>& available_isas();

/// Resolves a name: "" means EDGEKERN_ISA where it is set, else the best. Refuses what the machine lacks.
Status resolve_isa(const std::string& name, Isa* isa);

}  // namespace ek
