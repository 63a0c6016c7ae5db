// JsonReader walks JSON text value by value and makes nothing of what it passes over: text of a file that nobody trusts
// takes no more memory than the strings that are asked for.
#pragma once

#include <cstdint>
#include <string>

namespace ek {

/// Each call reads the next value, and answers false where that is another one or no JSON. After a false nothing holds.
class JsonReader {
 public:
  /// The text outlives the reader.
  JsonReader(const char* text, size_t size) : at_(text), end_(text + size) {}
  explicit JsonReader(const std::string& text) : JsonReader(text.data(), text.size()) {}

  bool read(std::string* value);  // as UTF-8
  bool read(int64_t* value);      // a whole number
  bool read(bool* value);
  bool read_null();
  /// Any value; only strings and brackets are looked at.
  bool skip();

  /// Calls member(name) for each member of an object; it reads the value, and answers whether to go on.
  template <typename Member>
  bool read_object(Member&& member) {
    return read_list('{', '}', [&] {
      std::string name;
      return read(&name) && take(':') && member(name);
    });
  }
  /// Calls item() for each item of an array; it reads the item, and answers whether to go on.
  template <typename Item>
  bool read_array(Item&& item) {
    return read_list('[', ']', item);
  }

 private:
  template <typename Entry>
  bool read_list(char open, char close, Entry&& entry) {
    if (!take(open)) return false;
    if (take(close)) return true;
    do {
      if (!entry()) return false;
    } while (take(','));
    return take(close);
  }
  /// Takes `sign` and the space before it, if that is what comes.
  bool take(char sign);
  bool take_word(const char* word);
  void pass_space();
  bool read_escape(std::string* value);
  bool read_hex(uint32_t* unit);

  const char* at_;
  const char* const end_;
};

}  // namespace ek
