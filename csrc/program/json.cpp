#include "program/json.h"

#include <algorithm>
#include <cstring>

namespace ek {
namespace {

void append_utf8(uint32_t code, std::string* text) {
  const auto byte = [&](uint32_t value) { text->push_back(static_cast<char>(value)); };
  if (code < 0x80) return byte(code);
  if (code < 0x800) {
    byte(0xc0 | code >> 6);
  } else if (code < 0x10000) {
    byte(0xe0 | code >> 12), byte(0x80 | (code >> 6 & 63));
  } else {
    byte(0xf0 | code >> 18), byte(0x80 | (code >> 12 & 63)), byte(0x80 | (code >> 6 & 63));
  }
  byte(0x80 | (code & 63));
}

}  // namespace

void JsonReader::pass_space() {
  while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
}

bool JsonReader::take(char sign) {
  pass_space();
  if (at_ == end_ || *at_ != sign) return false;
  ++at_;
  return true;
}

bool JsonReader::take_word(const char* word) {
  pass_space();
  const size_t size = std::strlen(word);
  if (static_cast<size_t>(end_ - at_) < size || std::memcmp(at_, word, size) != 0) return false;
  at_ += size;
  return true;
}

bool JsonReader::read(bool* value) {
  *value = take_word("true");
  return *value || take_word("false");
}

bool JsonReader::read_null() { return take_word("null"); }

bool JsonReader::read(int64_t* value) {
  constexpr uint64_t kMost = INT64_MAX;
  const bool negative = take('-');
  if (at_ == end_ || *at_ < '0' || *at_ > '9') return false;
  uint64_t found = 0;
  for (; at_ != end_ && *at_ >= '0' && *at_ <= '9'; ++at_) {
    const auto digit = static_cast<uint64_t>(*at_ - '0');
    if (found > (kMost - digit) / 10) return false;
    found = found * 10 + digit;
  }
  if (at_ != end_ && (*at_ == '.' || *at_ == 'e' || *at_ == 'E')) return false;
  *value = negative ? -static_cast<int64_t>(found) : static_cast<int64_t>(found);
  return true;
}

bool JsonReader::read_hex(uint32_t* unit) {
  if (end_ - at_ < 4) return false;
  *unit = 0;
  for (const char* const stop = at_ + 4; at_ != stop; ++at_) {
    const char sign = *at_;
    const bool digit = sign >= '0' && sign <= '9', lower = sign >= 'a' && sign <= 'f',
               upper = sign >= 'A' && sign <= 'F';
    if (!digit && !lower && !upper) return false;
    *unit = *unit << 4 | static_cast<uint32_t>(digit ? sign - '0' : sign - (lower ? 'a' : 'A') + 10);
  }
  return true;
}

/// What follows a backslash.
bool JsonReader::read_escape(std::string* value) {
  constexpr char kSigns[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
  if (at_ == end_) return false;
  const char sign = *at_++;
  if (sign != 'u') {
    const char* const found = std::find(kSigns, kSigns + 8, sign);
    if (found == kSigns + 8) return false;
    value->push_back(kMeant[found - kSigns]);
    return true;
  }
  uint32_t code = 0, low = 0;
  if (!read_hex(&code)) return false;
  if (code >= 0xdc00 && code < 0xe000) return false;  // the second half of a pair alone
  if (code >= 0xd800 && code < 0xdc00) {
    if (end_ - at_ < 2 || *at_++ != '\\' || *at_++ != 'u' || !read_hex(&low) || low < 0xdc00 || low >= 0xe000) {
      return false;
    }
    code = 0x10000 + ((code - 0xd800) << 10 | (low - 0xdc00));
  }
  append_utf8(code, value);
  return true;
}

bool JsonReader::read(std::string* value) {
  value->clear();
  if (!take('"')) return false;
  for (;;) {
    const char* const stop = std::find_if(at_, end_, [](char c) { return c == '"' || c == '\\'; });
    value->append(at_, stop);
    at_ = stop;
    if (at_ == end_) return false;
    if (*at_++ == '"') return true;
    if (!read_escape(value)) return false;
  }
}

bool JsonReader::skip() {
  pass_space();
  const char* const begin = at_;
  size_t depth = 0;
  for (; at_ != end_; ++at_) {
    const char sign = *at_;
    if (sign == '"') {
      for (++at_; at_ != end_ && *at_ != '"'; ++at_) {
        if (*at_ == '\\' && ++at_ == end_) return false;
      }
      if (at_ == end_) return false;
    } else if (sign == '[' || sign == '{') {
      ++depth;
    } else if (depth == 0 && (sign == ',' || sign == ']' || sign == '}')) {
      break;
    } else if (sign == ']' || sign == '}') {
      --depth;
    }
  }
  return depth == 0 && at_ != begin;
}

}  // namespace ek
