// Packed weights for C: made from a matrix, or from bytes that an earlier process saved.
#include <cstring>
#include <memory>

#include "base/checked.h"
#include "capi/capi.h"
#include "capi/failure.h"

namespace ek {
namespace {

constexpr char kMagic[8] = {'E', 'K', 'P', 'A', 'C', 'K', 'E', 'D'};

/// What stands before the packed bytes; little-endian, as every machine with kernels is.
struct Header {
  char magic[8];
  uint32_t layout, header_bytes;
  uint64_t k, n, payload_bytes, hash;  // of this header with hash = 0, then of the payload
  uint8_t zeros[16];
};
static_assert(sizeof(Header) == AlignedBuffer::kAlignment);

/// FNV-1a: tells damage, not malice.
uint64_t hash_of(Header header, const uint8_t* payload) {
  header.hash = 0;
  uint64_t h = 0xcbf29ce484222325u;
  const auto mix = [&h](const uint8_t* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) h = (h ^ bytes[i]) * 0x100000001b3u;
  };
  mix(reinterpret_cast<const uint8_t*>(&header), sizeof header);
  mix(payload, header.payload_bytes);
  return h;
}

}  // namespace

ek_status capi_pack_b(size_t k, size_t n, const int8_t* b, ptrdiff_t stride_k, ptrdiff_t stride_n, ek_packed** packed) {
  return no_throw("pack_b", [&]() -> ek_status {
    if (packed == nullptr) return fail(EK_ERROR_NULL, "pack_b: packed is null");
    if (b == nullptr && k != 0 && n != 0) return fail(EK_ERROR_NULL, "pack_b: b is null");
    auto made = std::make_unique<ek_packed>();
    made->shape = {n, 1, k};
    size_t bytes = 0;
    if (!made->shape.bytes(&bytes)) return fail(EK_ERROR_VALUE, "pack_b: %zu x %zu is too large to pack", k, n);
    made->data = AlignedBuffer(bytes);
    pack_weights(made->shape, b, stride_n, 0, stride_k, made->data.data());
    *packed = made.release();
    return EK_OK;
  });
}

void capi_free_packed(ek_packed* packed) { delete packed; }

ek_status capi_packed_shape(const ek_packed* packed, size_t* k, size_t* n) {
  if (packed == nullptr || k == nullptr || n == nullptr) {
    return fail(EK_ERROR_NULL, "packed_shape: packed, k or n is null");
  }
  *k = packed->shape.k_per_tap;
  *n = packed->shape.n;
  return EK_OK;
}

ek_status capi_packed_bytes(const ek_packed* packed, size_t* bytes) {
  if (packed == nullptr || bytes == nullptr) return fail(EK_ERROR_NULL, "packed_bytes: packed or bytes is null");
  *bytes = sizeof(Header) + packed->data.size();
  return EK_OK;
}

ek_status capi_save_packed(const ek_packed* packed, void* to, size_t bytes) {
  if (packed == nullptr || to == nullptr) return fail(EK_ERROR_NULL, "save_packed: packed or to is null");
  const size_t payload = packed->data.size();
  if (bytes != sizeof(Header) + payload) {
    return fail(EK_ERROR_VALUE, "save_packed: bytes is %zu but packed_bytes says %zu", bytes, sizeof(Header) + payload);
  }
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.layout = kPackedLayout;
  header.header_bytes = sizeof header;
  header.k = packed->shape.k_per_tap;
  header.n = packed->shape.n;
  header.payload_bytes = payload;
  header.hash = hash_of(header, packed->data.data());
  std::memcpy(to, &header, sizeof header);
  if (payload != 0) std::memcpy(static_cast<uint8_t*>(to) + sizeof header, packed->data.data(), payload);
  return EK_OK;
}

ek_status capi_load_packed(const void* from, size_t bytes, ek_packed** packed) {
  return no_throw("load_packed", [&]() -> ek_status {
    if (from == nullptr || packed == nullptr) return fail(EK_ERROR_NULL, "load_packed: from or packed is null");
    Header header{};
    if (bytes < sizeof header) {
      return fail(EK_ERROR_CORRUPT, "load_packed: %zu bytes are fewer than a header's %zu", bytes, sizeof header);
    }
    std::memcpy(&header, from, sizeof header);
    if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) {
      return fail(EK_ERROR_CORRUPT, "load_packed: these bytes are no packed weights; they do not begin with EKPACKED");
    }
    if (header.layout != kPackedLayout) {
      return fail(EK_ERROR_LAYOUT, "load_packed: weights of layout version %u; this library reads %u; pack them again",
                  header.layout, kPackedLayout);
    }
    auto made = std::make_unique<ek_packed>();
    made->shape = {header.n, 1, header.k};
    size_t wanted = 0;
    const uint8_t* const payload = static_cast<const uint8_t*>(from) + sizeof header;
    if (header.header_bytes != sizeof header || !made->shape.bytes(&wanted) || header.payload_bytes != wanted ||
        bytes - sizeof header != wanted || hash_of(header, payload) != header.hash) {
      return fail(EK_ERROR_CORRUPT, "load_packed: the bytes are cut short or damaged; write them again");
    }
    made->data = AlignedBuffer(wanted);
    if (wanted != 0) std::memcpy(made->data.data(), payload, wanted);
    *packed = made.release();
    return EK_OK;
  });
}

}  // namespace ek
