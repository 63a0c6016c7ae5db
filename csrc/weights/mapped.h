// Weights where their file is mapped: pages come when they are touched, and the system can drop them again.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/buffer.h"
#include "base/status.h"
#include "weights/source.h"

namespace ek {

/// All bytes of a regular file, read-only. The map outlives the file's name, not its truncation in place.
class MappedFile {
 public:
  MappedFile() = default;
  /// Refuses FIFOs, which may never answer, devices, which may never end, and the like. `function` is named in errors.
  static Status open(const std::string& path, const std::string& function, MappedFile* file);

  const uint8_t* data() const { return bytes_.get(); }
  size_t size() const { return bytes_.get_deleter().size; }
  /// Whether the file still has the size and the time of change that it was opened with: who reads pages that a shorter
  /// file no longer has is ended by the system.
  bool unchanged() const;

 private:
  struct Origin;  // the open file
  struct Close {
    void operator()(Origin* origin) const;
  };
  struct Unmap {
    size_t size;
    void operator()(const uint8_t* bytes) const;
  };
  std::unique_ptr<Origin, Close> origin_;
  std::unique_ptr<const uint8_t, Unmap> bytes_{nullptr, Unmap{0}};
};

/// All bytes of a regular file, copied to memory. Refuses as MappedFile::open(); throws NoMemory.
Status read_file(const std::string& path, const std::string& function, AlignedBuffer* bytes);

/// A mapped file from `start`, a multiple of 64, to its end.
class MappedWeights final : public WeightSource {
 public:
  MappedWeights(MappedFile file, size_t start) : file_(std::move(file)), start_(start) {}
  uint64_t size() const override { return file_.size() - start_; }
  const uint8_t* pin(uint64_t offset, uint64_t) noexcept override { return file_.data() + start_ + offset; }
  void unpin(uint64_t, uint64_t) noexcept override {}
  bool stays() const override { return true; }

 private:
  MappedFile file_;
  size_t start_;
};

}  // namespace ek
