// SHA-256 (FIPS 180-4) of bytes in memory, by the CPU's own instructions where it has them. The digest is the same on
// every CPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/sha256.h"

namespace ek {

using Sha256 = std::array<uint8_t, 32>;

/// One way to take blocks in, by name: "shani", "armv8", "scalar".
struct Sha256Kernel {
  const char* name;
  Sha256Blocks blocks;
};

/// Those that this CPU runs, best first; the scalar one is last and always there.
const std::vector<Sha256Kernel>& sha256_kernels();

Sha256 sha256(const uint8_t* data, size_t size);
/// The same by one of sha256_kernels().
Sha256 sha256(const uint8_t* data, size_t size, const Sha256Kernel& kernel);

}  // namespace ek
