// The binary form of a ProgramIndex, written once for both directions: `fields` lists what a record holds, Writer and
// Reader say what to do with it.
//
//   "EKPROG\0\1" | version u32 | producer | tensors | blobs | steps | segments | inputs | outputs | arena | sha256
//
// Numbers are little-endian; text and lists start with their count as u32. No padding, no optional part: equal indices
// have equal bytes, and bytes that decode are the bytes that encode would write.
#include <algorithm>
#include <cstring>
#include <type_traits>

#include "program/program.h"
#include "program/steps/step.h"

namespace ek {
namespace {

constexpr char kMagic[8] = {'E', 'K', 'P', 'R', 'O', 'G', '\0', '\1'};

// Far above any real model, far below what would hurt.
constexpr size_t kMaxText = 4096, kMaxRank = 8, kMaxItems = size_t{1} << 20, kMaxArguments = 4096;

// One `fields` a record; T is const when writing.
template <typename Archive, typename T>
void fields(Archive& ar, T& record) {
  using Record = std::remove_const_t<T>;
  if constexpr (std::is_same_v<Record, TensorDef>) {
    ar.text("tensor name", record.name);
    ar.choice("dtype", record.dtype, [](DType dtype) { return dtype <= kLastDType; });
    ar.list("tensor shape", record.shape, kMaxRank);
    ar.number(record.scale);
    ar.number(record.zero_point);
    ar.number(record.offset);
    ar.number(record.alias_of);
  } else if constexpr (std::is_same_v<Record, BlobDef>) {
    ar.text("blob name", record.name);
    ar.number(record.offset);
    ar.number(record.bytes);
    ar.bytes(record.sha256.data(), record.sha256.size());
    if (ar.of_index >= kVersionWithStorage) {
      const Storage last = ar.of_index >= kVersionWithNibbles ? Storage::kInt4 : Storage::kBf16;
      ar.choice("blob storage", record.stored, [last](Storage stored) { return stored <= last; });
    }
    if (record.stored == Storage::kInt4) {
      ar.number(record.parts);
      ar.number(record.codes);
    }
  } else if constexpr (std::is_same_v<Record, Step>) {
    ar.choice("step kind", record.kind, [](StepKind kind) { return !step_kind_name(kind).empty(); });
    ar.text("step name", record.name);
    ar.text("step operators", record.op);
    ar.list("step inputs", record.in, kMaxArguments);
    ar.list("step outputs", record.out, kMaxArguments);
    ar.list("step blobs", record.blobs, kMaxArguments);
    ar.list("step ints", record.ints, kMaxArguments);
    ar.list("step floats", record.floats, kMaxArguments);
  } else if constexpr (std::is_same_v<Record, Segment>) {
    ar.number(record.begin);
    ar.number(record.end);
  } else if constexpr (std::is_same_v<Record, ProgramIndex>) {
    ar.version(record);
    ar.text("producer", record.producer);
    ar.list("tensors", record.tensors, kMaxItems);
    ar.list("blobs", record.blobs, kMaxItems);
    ar.list("steps", record.steps, kMaxItems);
    ar.list("segments", record.segments, kMaxItems);
    ar.list("inputs", record.inputs, kMaxItems);
    ar.list("outputs", record.outputs, kMaxItems);
    ar.number(record.arena_bytes);
    ar.bytes(record.header_sha256.data(), record.header_sha256.size());
  } else {
    ar.number(record);
  }
}

/// The unsigned integer that carries a number's bits.
template <typename T>
using Bits = std::conditional_t<
    sizeof(T) == 1, uint8_t,
    std::conditional_t<sizeof(T) == 2, uint16_t, std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>>>;

uint32_t version_of(const ProgramIndex& index) {
  uint32_t version = kProgramVersion;
  for (const Step& step : index.steps) {
    for (const uint32_t id : step.out) {
      if (id < index.tensors.size() && index.tensors[id].alias_of >= 0) return kVersionInPlace;
    }
  }
  for (const BlobDef& blob : index.blobs) {
    if (blob.stored == Storage::kInt4) return kVersionWithNibbles;
    if (blob.stored != Storage::kWhole) version = kVersionWithStorage;
  }
  return version;
}

class Writer {
 public:
  uint32_t of_index = kProgramVersion;

  void version(const ProgramIndex& index) {
    of_index = version_of(index);
    number(of_index);
  }
  template <typename T>
  void number(T value) {
    Bits<T> bits;
    std::memcpy(&bits, &value, sizeof value);
    for (size_t i = 0; i < sizeof value; ++i) out_.push_back(static_cast<char>(bits >> (8 * i) & 0xFF));
  }
  template <typename T, typename Known>
  void choice(const char*, T value, Known) {
    number(value);
  }
  void bytes(const void* data, size_t n) { out_.append(static_cast<const char*>(data), n); }
  void text(const char*, const std::string& value) {
    number(static_cast<uint32_t>(value.size()));
    out_ += value;
  }
  template <typename T>
  void list(const char*, const std::vector<T>& items, size_t) {
    number(static_cast<uint32_t>(items.size()));
    for (const T& item : items) fields(*this, item);
  }
  std::string take() { return std::move(out_); }

 private:
  std::string out_;
};

/// Text goes to Python as str, so it has to be UTF-8: no stray byte, overlong form, surrogate, or value past U+10FFFF.
bool is_utf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t at) { return at < text.size() ? static_cast<uint8_t>(text[at]) : uint8_t{0}; };
    const uint8_t lead = byte(i);
    const size_t extra = lead < 0x80 ? 0 : lead >= 0xC2 && lead < 0xE0 ? 1 : (lead & 0xF0) == 0xE0 ? 2 : 3;
    if (extra == 3 && (lead < 0xF0 || lead > 0xF4)) return false;
    for (size_t k = 1; k <= extra; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    }
    const uint8_t second = byte(i + 1);
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F)) return false;
    if ((lead == 0xF0 && second < 0x90) || (lead == 0xF4 && second > 0x8F)) return false;
    i += extra + 1;
  }
  return true;
}

/// Reads until the first thing that is wrong; from then on every value is zero and `status` says what it was.
class Reader {
 public:
  uint32_t of_index = kProgramVersion;

  Reader(const uint8_t* data, size_t size) : next_(data), left_(size) {}

  void version(ProgramIndex&) {
    number(of_index);
    if (ok() && (of_index < kProgramVersion || of_index > kVersionInPlace)) {
      fail("format version " + std::to_string(of_index) + " is not supported; this edgekern reads versions " +
           std::to_string(kProgramVersion) + " to " + std::to_string(kVersionInPlace));
    }
  }

  template <typename T>
  void number(T& value) {
    uint8_t raw[sizeof(T)] = {};
    bytes(raw, sizeof raw);
    Bits<T> bits = 0;
    for (size_t i = 0; i < sizeof raw; ++i) bits = static_cast<Bits<T>>(bits | static_cast<Bits<T>>(raw[i]) << (8 * i));
    std::memcpy(&value, &bits, sizeof value);
  }
  template <typename T, typename Known>
  void choice(const char* what, T& value, Known known) {
    std::underlying_type_t<T> raw = 0;
    number(raw);
    if (!known(static_cast<T>(raw))) return fail(std::string("unknown ") + what + " " + std::to_string(raw));
    if (ok()) value = static_cast<T>(raw);
  }
  void bytes(void* out, size_t n) {
    if (n > left_) return fail("the bytes end in the middle of a record");
    if (n > 0 && ok()) std::memcpy(out, next_, n);
    next_ += n;
    left_ -= n;
  }
  void text(const char* what, std::string& value) {
    const size_t n = count(what, kMaxText, 1);
    value.resize(n);
    bytes(value.data(), n);
    if (!is_utf8(value)) fail(std::string(what) + " is not UTF-8");
  }
  template <typename T>
  void list(const char* what, std::vector<T>& items, size_t limit) {
    items.resize(count(what, limit, kLeastBytes<T>));
    for (T& item : items) {
      if (!ok()) return;
      fields(*this, item);
    }
  }
  void fail(std::string message) {
    if (ok()) status_ = {Code::kCorrupt, "program index: " + std::move(message)};
    left_ = 0;
  }
  bool ok() const { return status_.ok(); }
  size_t left() const { return left_; }
  const Status& status() const { return status_; }

 private:
  /// Bytes of the shortest record, so that a count can be refused before memory is spent on it.
  template <typename T>
  static constexpr size_t kLeastBytes = std::is_same_v<T, TensorDef> ? 29
                                        : std::is_same_v<T, BlobDef> ? 52
                                        : std::is_same_v<T, Step>    ? 30
                                        : std::is_same_v<T, Segment> ? 8
                                                                     : sizeof(T);

  size_t count(const char* what, size_t limit, size_t item_bytes) {
    uint32_t n = 0;
    number(n);
    if (n > limit) {
      fail(std::string(what) + ": a count of " + std::to_string(n) + " passes the limit of " + std::to_string(limit));
    } else if (n > left_ / item_bytes) {
      fail(std::string(what) + ": a count of " + std::to_string(n) + " needs more than the " + std::to_string(left_) +
           " bytes that are left");
    }
    return ok() ? n : 0;
  }

  const uint8_t* next_;
  size_t left_;
  Status status_;
};

}  // namespace

size_t dtype_bytes(DType dtype) {
  switch (dtype) {
    case DType::kU8:
    case DType::kS8:
    case DType::kBool:
      return 1;
    case DType::kF16:
    case DType::kBf16:
      return 2;
    case DType::kI32:
    case DType::kF32:
      return 4;
    case DType::kI64:
    case DType::kF64:
      return 8;
  }
  return 0;
}

std::string encode(const ProgramIndex& index) {
  Writer writer;
  writer.bytes(kMagic, sizeof kMagic);
  fields(writer, index);
  return writer.take();
}

Status decode(const uint8_t* bytes, size_t size, ProgramIndex* index) {
  size_t used = 0;
  ProgramIndex result;
  EK_RETURN_IF_ERROR(decode_front(bytes, size, &result, &used));
  if (used != size) {
    return {Code::kCorrupt, "program index: " + std::to_string(size - used) + " bytes follow the end of the index"};
  }
  *index = std::move(result);
  return {};
}

Status decode_front(const uint8_t* bytes, size_t size, ProgramIndex* index, size_t* used) {
  Reader reader(bytes, size);
  char magic[sizeof kMagic] = {};
  reader.bytes(magic, sizeof magic);
  if (reader.ok() && std::memcmp(magic, kMagic, sizeof kMagic) != 0) {
    reader.fail("the magic bytes are wrong; this is no edgekern program");
  }
  ProgramIndex result;
  if (reader.ok()) fields(reader, result);
  if (reader.ok() && reader.of_index != version_of(result)) {
    const char* const lacks = reader.of_index == kVersionInPlace       ? "a step that writes over an input"
                              : reader.of_index == kVersionWithNibbles ? "a blob of 4 bits"
                                                                       : "a blob of halves";
    reader.fail("version " + std::to_string(reader.of_index) + " without " + lacks);
  }
  if (reader.ok()) {
    *index = std::move(result);
    *used = size - reader.left();
  }
  return reader.status();
}

}  // namespace ek
