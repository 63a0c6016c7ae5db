#include "program/container.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/checked.h"
#include "cpu/machine.h"
#include "hash/sha256.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kPage = 4096, kBlobAlignment = 64;
constexpr char kOpening[] = R"({"__metadata__":{")";

/// Of SHA-256 with the CPU's own instructions; blobs differ in size, so one thread waits for the other: 16 wakes'
/// worth.
constexpr double kBytesPerUs = 1400, kWakes = 16;
constexpr int kMostThreads = 2;  // they hash as fast as most disks read

bool matches(const uint8_t* data, size_t size, const Sha256& wanted) { return sha256(data, size) == wanted; }

/// The first blob in the order of the file whose bytes are not those that were hashed, or their number.
size_t first_damaged(const ContainerView& view) {
  const std::vector<BlobDef>& blobs = view.index.blobs;
  std::vector<size_t> largest_first(blobs.size());
  std::iota(largest_first.begin(), largest_first.end(), size_t{0});
  std::stable_sort(largest_first.begin(), largest_first.end(),
                   [&](size_t a, size_t b) { return blobs[a].bytes > blobs[b].bytes; });
  const bool alone = !worth_a_thread(static_cast<double>(view.data_bytes) / kBytesPerUs / kWakes);
  const int threads = alone ? 1 : std::min(kMostThreads, num_threads());
  std::atomic<size_t> next{0}, damaged{blobs.size()};
  parallel_for(static_cast<size_t>(threads), threads, [&](size_t) {
    for (size_t i = next++; i < blobs.size(); i = next++) {
      const size_t number = largest_first[i];
      const BlobDef& b = blobs[number];
      if (matches(view.data + b.offset, static_cast<size_t>(b.bytes), b.sha256)) continue;
      for (size_t found = damaged; number < found && !damaged.compare_exchange_weak(found, number);) continue;
    }
  });
  return damaged;
}

/// What is wrong before the index is looked into, as the end of a sentence; empty when nothing is.
std::string find_damage(const uint8_t* file, size_t size, Verify verify, ContainerView* view) {
  uint64_t header_bytes = 0;
  if (size < sizeof header_bytes) return "it ends after " + std::to_string(size) + " bytes";
  for (size_t i = 0; i < sizeof header_bytes; ++i) header_bytes |= uint64_t{file[i]} << (8 * i);
  if (header_bytes > size - sizeof header_bytes) {
    return "its header of " + std::to_string(header_bytes) + " bytes passes its end at " + std::to_string(size);
  }
  const size_t start = sizeof header_bytes + static_cast<size_t>(header_bytes);
  if (start % kPage != 0) {
    return "its data starts at " + std::to_string(start) + ", which is no multiple of " + std::to_string(kPage);
  }
  if (std::memcmp(file + sizeof header_bytes, kOpening, sizeof kOpening - 1) != 0) {
    return "its header is not the JSON that edgekern writes";
  }
  view->start = start;
  view->data = file + start;
  view->data_bytes = size - start;
  const Status decoded = decode_front(view->data, size - start, &view->index, &view->index_bytes);
  if (!decoded.ok()) return decoded.message();

  const ProgramIndex& index = view->index;
  const uint8_t* const stored = view->data + view->index_bytes;
  const size_t padded = round_up(view->index_bytes + sizeof(Sha256), kBlobAlignment);
  Sha256 digest;
  bool sound = padded <= view->data_bytes;
  if (sound) {
    std::memcpy(digest.data(), stored, digest.size());
    sound = matches(view->data, view->index_bytes, digest) &&
            std::all_of(stored + digest.size(), view->data + padded, [](uint8_t byte) { return byte == 0; });
  }
  if (!sound) return "its index does not match its sha256";
  if (!matches(file, start, index.header_sha256)) return "its header does not match its sha256";

  uint64_t at = padded;
  for (const BlobDef& b : index.blobs) {
    if (b.offset != at || b.bytes % kBlobAlignment != 0 || b.bytes > view->data_bytes - at) {
      return "blob '" + b.name + "' does not lie where the one before it ends";
    }
    at += b.bytes;
  }
  if (at != view->data_bytes) return std::to_string(view->data_bytes - at) + " bytes follow its last blob";
  if (verify == Verify::kFull) {
    const size_t damaged = first_damaged(*view);
    if (damaged < index.blobs.size()) return "blob '" + index.blobs[damaged].name + "' does not match its sha256";
  }
  return "";
}

}  // namespace

Status open_container(const uint8_t* file, size_t size, const std::string& source, Verify verify, ContainerView* view) {
  std::string damage = find_damage(file, size, verify, view);
  if (damage.empty()) {
    const Status valid = validate(view->index, view->data_bytes);
    if (valid.ok()) return {};
    if (valid.code() != Code::kCorrupt) return {valid.code(), "artifact: " + source + ": " + valid.message()};
    damage = valid.message();
  }
  return {Code::kCorrupt, "artifact: " + source + " is not a sound .ekm file: " + damage +
                              "; write it again with Program.save, or copy it again"};
}

}  // namespace ek
