// A whole .ekm file. An odd first byte has the target put a header before the rest and all hashes right, so that what
// stands behind them is reached.
#include <cstring>

#include "common.h"
#include "ekm_file.h"
#include "program/container.h"

namespace {

using namespace ek;

/// Puts the header's hash and those of blobs into the index that `data` starts with, and its own behind it.
void mend(const std::string& header, uint8_t* data, size_t size) {
  ProgramIndex index;
  size_t used = 0;
  if (!decode_front(data, size, &index, &used).ok() || round_up(used + sizeof(Sha256), 64) > size) return;
  index.header_sha256 = test::sha256_of(header);
  for (BlobDef& b : index.blobs) {
    if (b.offset <= size && b.bytes <= size - b.offset) b.sha256 = sha256(data + b.offset, b.bytes);
  }
  const std::string encoded = encode(index);
  fuzz::require(encoded.size() == used, "hashes change no length");
  std::memcpy(data, encoded.data(), used);
  const Sha256 digest = sha256(data, used);
  std::memset(data + used, 0, round_up(used + digest.size(), 64) - used);
  std::memcpy(data + used, digest.data(), digest.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string header = bytes[0] % 2 != 0 ? test::ekm_header() : "";
  AlignedBuffer file(header.size() + size - 1);
  std::copy(header.begin(), header.end(), file.data());
  std::copy(bytes + 1, bytes + size, file.data() + header.size());
  if (!header.empty()) mend(header, file.data() + header.size(), size - 1);
  ContainerView view;
  const Verify verify = bytes[0] % 4 < 2 ? Verify::kFull : Verify::kLazy;
  if (!open_container(file.data(), file.size(), "the input", verify, &view).ok()) return 0;
  fuzz::run(view.index, view.data, view.data_bytes);
  return 0;
}
