// What CPUs have beside the instruction sets of isa.h.
#pragma once

namespace ek {

/// Instructions for SHA-256: x86's SHA extensions, Armv8's FEAT_SHA256.
bool cpu_has_sha256();

}  // namespace ek
