// A whole .ekm file. An odd first byte has the target put the length of the header right, so that the index is reached.
#include <cstring>

#include "common.h"
#include "program/container.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace ek;
  if (size == 0) return 0;
  const size_t header = 56 + 64 * size_t{bytes[0] / 2u % 4};
  const bool mend = bytes[0] % 2 != 0;
  AlignedBuffer file(mend ? 8 + header + size - 1 : size - 1);
  if (mend) {
    for (size_t i = 0; i < 8; ++i) file.data()[i] = static_cast<uint8_t>(uint64_t{header} >> (8 * i));
  }
  if (size > 1) std::memcpy(file.data() + file.size() - (size - 1), bytes + 1, size - 1);
  ContainerView view;
  if (open_container(file.data(), file.size(), &view).ok()) fuzz::run(view.index, view.data, view.data_bytes);
  return 0;
}
