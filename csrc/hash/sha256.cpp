#include "hash/sha256.h"

#include <cstring>

#include "cpu/features.h"

namespace ek {
namespace {

std::vector<Sha256Kernel> find_kernels() {
  std::vector<Sha256Kernel> found;
#if defined(__x86_64__)
  if (cpu_has_sha256()) found.push_back({"shani", sha256_blocks_shani});
#elif defined(__aarch64__)
  if (cpu_has_sha256()) found.push_back({"armv8", sha256_blocks_armv8});
#endif
  found.push_back({"scalar", sha256_blocks_scalar});
  return found;
}

}  // namespace

const std::vector<Sha256Kernel>& sha256_kernels() {
  static const std::vector<Sha256Kernel>& found = *new std::vector<Sha256Kernel>(find_kernels());
  return found;
}

Sha256 sha256(const uint8_t* data, size_t size, const Sha256Kernel& kernel) {
  // FIPS 180-4, 5.3.3: the fractional parts of the square roots of the first eight primes.
  uint32_t state[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  const size_t whole = size / 64, rest = size % 64;
  kernel.blocks(state, data, whole);

  // Behind the message: one bit, zeros, and the message's length in bits, up to the end of a block.
  uint8_t last[128] = {};
  const size_t blocks = rest < 56 ? 1 : 2;
  if (rest > 0) std::memcpy(last, data + 64 * whole, rest);
  last[rest] = 0x80;
  const uint64_t bits = uint64_t{size} * 8;
  for (size_t i = 0; i < 8; ++i) last[64 * blocks - 1 - i] = static_cast<uint8_t>(bits >> (8 * i));
  kernel.blocks(state, last, blocks);

  Sha256 digest;
  for (size_t i = 0; i < digest.size(); ++i) digest[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

Sha256 sha256(const uint8_t* data, size_t size) { return sha256(data, size, sha256_kernels().front()); }

}  // namespace ek
