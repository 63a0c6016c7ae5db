// Items of a size that is known when a loop is entered: copies that are one instruction inside of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace ek {

/// A block of bytes: `kBytes` of them, or as many as it is told where that is 0.
template <size_t kBytes>
struct Block {
  size_t told;

  size_t bytes() const { return kBytes == 0 ? told : kBytes; }
  void copy(uint8_t* to, const uint8_t* from) const { std::memcpy(to, from, bytes()); }
  void clear(uint8_t* to) const { std::memset(to, 0, bytes()); }
};

/// body(Block) with the block's size as a constant where it is a usual one.
template <typename Body>
void with_block(size_t bytes, Body&& body) {
  switch (bytes) {
    case 1:
      return body(Block<1>{1});
    case 2:
      return body(Block<2>{2});
    case 4:
      return body(Block<4>{4});
    case 8:
      return body(Block<8>{8});
    case 12:
      return body(Block<12>{12});
    case 16:
      return body(Block<16>{16});
    case 32:
      return body(Block<32>{32});
    case 64:
      return body(Block<64>{64});
    default:
      return body(Block<0>{bytes});
  }
}

}  // namespace ek
