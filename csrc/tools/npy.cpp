#include "tools/npy.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace npy {
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicBytes = 6, kAlignment = 64;

/// Reads the dictionary of a header, which Python writes as a literal: {'descr': '<f4', 'fortran_order': False, ...}
class Header {
 public:
  explicit Header(const std::string& text) : text_(text) {}

  bool read(Array* array) {
    bool descr = false, order = false, shape = false;
    if (!take("{")) return false;
    while (!take("}")) {
      std::string key;
      if (!read_string(&key) || !take(":")) return false;
      if (key == "descr") {
        descr = read_string(&array->type);
      } else if (key == "fortran_order") {
        order = take("False");  // rows one behind the other
      } else if (key == "shape") {
        shape = read_shape(&array->shape);
      } else {
        return false;
      }
      take(",");
    }
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    return descr && order && shape && at_ == text_.size();
  }

 private:
  bool take(const char* word) {
    while (at_ < text_.size() && text_[at_] == ' ') ++at_;
    const size_t size = std::strlen(word);
    if (text_.compare(at_, size, word) != 0) return false;
    at_ += size;
    return true;
  }
  bool read_string(std::string* value) {
    if (!take("'")) return false;
    const size_t end = text_.find('\'', at_);
    if (end == std::string::npos) return false;
    *value = text_.substr(at_, end - at_);
    at_ = end + 1;
    return true;
  }
  bool read_shape(std::vector<int64_t>* shape) {
    if (!take("(")) return false;
    while (!take(")")) {
      take("");  // the space
      int64_t side = 0;
      const size_t begin = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; ++at_) {
        if (at_ - begin > 15) return false;
        side = side * 10 + (text_[at_] - '0');
      }
      if (at_ == begin) return false;
      shape->push_back(side);
      take(",");
    }
    return true;
  }

  const std::string& text_;
  size_t at_ = 0;
};

/// Bytes of an element: the number at the end of its type; 0 of types that are no plain numbers.
size_t item_bytes(const std::string& type) {
  if (type.size() != 3 || (type[0] != '<' && type[0] != '|') || std::strchr("biuf", type[1]) == nullptr) return 0;
  return type[2] >= '1' && type[2] <= '8' ? static_cast<size_t>(type[2] - '0') : 0;
}

}  // namespace

Array read(const std::string& path) {
  const auto refuse = [&](const std::string& fact) { return std::runtime_error("'" + path + "' " + fact); };
  std::ifstream file(path, std::ios::binary);
  if (!file) throw refuse("cannot be opened");
  const std::vector<char> all{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (file.bad()) throw refuse("cannot be read");
  if (all.size() < 10 || std::memcmp(all.data(), kMagic, kMagicBytes) != 0) throw refuse("is no .npy file");
  const auto byte = [&](size_t at) { return static_cast<size_t>(static_cast<uint8_t>(all[at])); };
  const size_t begin = all[kMagicBytes] == 1 ? 10 : 12;
  if (all.size() < begin || byte(kMagicBytes) < 1 || byte(kMagicBytes) > 3)
    throw refuse("is no .npy file that is known");
  size_t length = byte(8) | byte(9) << 8;
  if (begin == 12) length |= byte(10) << 16 | byte(11) << 24;
  if (length > all.size() - begin) throw refuse("ends in its header");
  Array array;
  const std::string text(all.data() + begin, length);
  if (!Header(text).read(&array)) {
    throw refuse("has a header that is not read here: an array in C's order is, saved by numpy.save");
  }
  size_t bytes = item_bytes(array.type);
  if (bytes == 0) throw refuse("holds '" + array.type + "', and little-endian numbers are read here");
  for (const int64_t side : array.shape) {
    if (__builtin_mul_overflow(bytes, static_cast<size_t>(side), &bytes)) throw refuse("has a shape that does not fit");
  }
  if (bytes != all.size() - begin - length) {
    throw refuse("has " + std::to_string(all.size() - begin - length) + " bytes of numbers, and its shape calls for " +
                 std::to_string(bytes));
  }
  array.bytes.assign(all.end() - static_cast<std::ptrdiff_t>(bytes), all.end());
  return array;
}

void write(const std::string& path, const Array& array) {
  std::string header =
      "{'descr': '" + array.type + "', 'fortran_order': False, 'shape': " + shape_text(array.shape) + ", }";
  const size_t front = kMagicBytes + 4;
  header.append(kAlignment - (front + header.size() + 1) % kAlignment, ' ');
  header.push_back('\n');
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  const char length[2] = {static_cast<char>(header.size() & 255), static_cast<char>(header.size() >> 8)};
  file.write(kMagic, kMagicBytes).write("\x01\x00", 2).write(length, 2) << header;
  file.write(reinterpret_cast<const char*>(array.bytes.data()), static_cast<std::streamsize>(array.bytes.size()));
  file.close();
  if (file) return;
  std::remove(path.c_str());
  throw std::runtime_error("'" + path + "' cannot be written");
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace npy
