// A whole .ekm file. An odd first byte has the target put a header before the rest and all hashes right, so that what
// stands behind them is reached.
#include <algorithm>
#include <string>
#include <vector>

#include "common.h"
#include "ekm_file.h"
#include "program/container.h"

namespace {

using namespace ek;

/// Lays the blobs of the index that `data` starts with behind it, as far as they are sound, and puts all hashes right.
void mend(const std::string& header, std::vector<uint8_t>* data) {
  ProgramIndex index;
  size_t used = 0;
  if (!decode_front(data->data(), data->size(), &index, &used).ok()) return;
  index.header_sha256 = test::sha256_of(header);
  uint64_t end = round_up(used + sizeof(Sha256), 64);
  for (BlobDef& b : index.blobs) {
    if (b.bytes > fuzz::kMostBytes || end + b.bytes > fuzz::kMostBytes) return;
    b.offset = end;
    end += b.bytes;
  }
  data->resize(static_cast<size_t>(end));
  for (BlobDef& b : index.blobs) b.sha256 = sha256(data->data() + b.offset, static_cast<size_t>(b.bytes));
  std::string encoded = encode(index);
  fuzz::require(encoded.size() == used, "hashes and places change no length");
  const Sha256 digest = test::sha256_of(encoded);
  encoded.append(reinterpret_cast<const char*>(digest.data()), digest.size());
  encoded.resize(round_up(encoded.size(), 64));
  std::copy(encoded.begin(), encoded.end(), data->begin());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  const std::string header = bytes[0] % 2 != 0 ? test::ekm_header() : "";
  std::vector<uint8_t> data(bytes + 1, bytes + size);
  if (!header.empty()) mend(header, &data);
  AlignedBuffer file(header.size() + data.size());
  std::copy(header.begin(), header.end(), file.data());
  std::copy(data.begin(), data.end(), file.data() + header.size());
  ContainerView view;
  const Verify verify = bytes[0] % 4 < 2 ? Verify::kFull : Verify::kLazy;
  if (!open_container(file.data(), file.size(), "the input", verify, &view).ok()) return 0;
  fuzz::run(view.index, view.data, view.data_bytes);
  return 0;
}
