// A source of weight bytes: whoever computes with a range of them pins it before and unpins it behind, and keeps no
// address in between. So weights may lie in memory, in a mapped file, or come and go as they are streamed.
#pragma once

#include <cstdint>

namespace ek {

class WeightSource {
 public:
  virtual ~WeightSource() = default;
  virtual uint64_t size() const = 0;
  /// The bytes [offset, offset + bytes), which lie inside the source, at an address that is a multiple of 64 where
  /// `offset` is one. They stay there until they are unpinned as often as they were pinned.
  virtual const uint8_t* pin(uint64_t offset, uint64_t bytes) noexcept = 0;
  virtual void unpin(uint64_t offset, uint64_t bytes) noexcept = 0;
  /// Whether bytes never move: one pin then holds as long as the source.
  virtual bool stays() const { return false; }
};

/// Bytes in memory, of the caller's, who keeps them as long as this lives; they start at a multiple of 64.
class ResidentWeights final : public WeightSource {
 public:
  ResidentWeights(const uint8_t* data, uint64_t size) : data_(data), size_(size) {}
  uint64_t size() const override { return size_; }
  const uint8_t* pin(uint64_t offset, uint64_t) noexcept override { return data_ + offset; }
  void unpin(uint64_t, uint64_t) noexcept override {}
  bool stays() const override { return true; }

 private:
  const uint8_t* data_;
  uint64_t size_;
};

}  // namespace ek
