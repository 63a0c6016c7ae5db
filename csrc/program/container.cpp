#include "program/container.h"

namespace ek {

Status open_container(const uint8_t* file, size_t size, ContainerView* view) {
  uint64_t header_bytes = 0;
  if (size < sizeof header_bytes) return {Code::kCorrupt, "container: shorter than its own header"};
  for (size_t i = 0; i < sizeof header_bytes; ++i) header_bytes |= uint64_t{file[i]} << (8 * i);
  if (header_bytes > size - sizeof header_bytes)
    return {Code::kCorrupt, "container: the header passes the end of the file"};
  const size_t start = sizeof header_bytes + static_cast<size_t>(header_bytes);
  if (start % 64 != 0) return {Code::kCorrupt, "container: the data section is not aligned"};
  size_t index_bytes = 0;
  EK_RETURN_IF_ERROR(decode_front(file + start, size - start, &view->index, &index_bytes));
  view->data = file + start;
  view->data_bytes = size - start;
  return {};
}

}  // namespace ek
