// SHA-256: the digests of FIPS 180-4's examples, and the same for every kernel, length and address.
#include <doctest/doctest.h>

#include <string>

#include "guarded.h"
#include "hash/sha256.h"
#include "reference.h"

using namespace ek;
using namespace ek::test;

namespace {

std::string hex(const Sha256& digest) {
  std::string text;
  for (const uint8_t byte : digest) {
    for (const int half : {byte >> 4, byte & 15}) text += "0123456789abcdef"[half];
  }
  return text;
}

Sha256 digest_of(const std::string& text, const Sha256Kernel& kernel) {
  return sha256(reinterpret_cast<const uint8_t*>(text.data()), text.size(), kernel);
}

}  // namespace

TEST_CASE("every kernel gives the digests of the standard's examples") {
  const std::pair<std::string, const char*> examples[] = {
      {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
      {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
      {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
       "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
      {"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrst"
       "u",
       "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"},
      {std::string(1000000, 'a'), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"}};
  for (const Sha256Kernel& kernel : sha256_kernels()) {
    CAPTURE(kernel.name);
    for (const auto& [text, digest] : examples) CHECK(hex(digest_of(text, kernel)) == digest);
  }
}

TEST_CASE("all kernels give one digest for any length and address, and read no byte beyond") {
  CHECK(std::string(sha256_kernels().back().name) == "scalar");
  const Sha256Kernel plain = sha256_kernels().back();
  Bytes content(1100);
  for (uint8_t& byte : content) byte = static_cast<uint8_t>(uniform(0, 255));
  for (size_t size = 0; size <= 300; ++size) {
    const Sha256 wanted = sha256(content.data() + 64, size, plain);
    Guarded<uint8_t> at_end(Bytes(content.begin() + 64, content.begin() + 64 + static_cast<ptrdiff_t>(size)));
    for (const Sha256Kernel& kernel : sha256_kernels()) {
      CAPTURE(kernel.name);
      CAPTURE(size);
      CHECK(sha256(at_end.data(), size, kernel) == wanted);
    }
  }
  for (size_t start = 0; start < 64; ++start) {
    const Sha256 wanted = sha256(content.data() + start, 1000, plain);
    for (const Sha256Kernel& kernel : sha256_kernels()) CHECK(sha256(content.data() + start, 1000, kernel) == wanted);
  }
}
