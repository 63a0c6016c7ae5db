// A program as an .ekm file in memory, laid out as Program.save does, but for a JSON that tells nothing.
#pragma once

#include <algorithm>
#include <string>

#include "base/buffer.h"
#include "base/checked.h"
#include "hash/sha256.h"
#include "program/program.h"

namespace ek::test {

inline Sha256 sha256_of(const std::string& bytes) {
  return sha256(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

/// The header's length and JSON, up to the data section.
inline std::string ekm_header() {
  std::string header = std::string("\xf8\x0f\0\0\0\0\0\0", 8) + R"({"__metadata__":{"ekm.version":"1"}})";
  header.resize(4096, ' ');
  return header;
}

/// `data` holds the blobs of `index`, one behind the other.
inline AlignedBuffer ekm_file(ProgramIndex index, const AlignedBuffer& data) {
  const std::string header = ekm_header();
  index.header_sha256 = sha256_of(header);
  const size_t front = round_up(encode(index).size() + sizeof(Sha256), 64);  // lengths do not depend on values
  for (BlobDef& blob : index.blobs) {
    blob.sha256 = sha256(data.data() + blob.offset, blob.bytes);
    blob.offset += front;
  }
  std::string encoded = encode(index);
  const Sha256 digest = sha256_of(encoded);
  encoded.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  AlignedBuffer file(header.size() + front + data.size());
  std::copy(header.begin(), header.end(), file.data());
  std::copy(encoded.begin(), encoded.end(), file.data() + header.size());
  std::copy(data.data(), data.data() + data.size(), file.data() + header.size() + front);
  return file;
}

}  // namespace ek::test
