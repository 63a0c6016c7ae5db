// A step's arguments, declared once a kind; reading and naming them follow from that.
//
// The struct of a kind has
//   template <typename Arguments>
//   void each(Arguments& a) { a.size("rows", rows); a.real("lo", lo); }
// In an index they are two flat lists, integers and floats, in the order of each(). Nobody else counts positions.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "program/program.h"

namespace ek {

/// Sides, channels and taps beyond this are damage; below it, sums of two products of arguments fit easily.
inline constexpr int64_t kMaxSize = int64_t{1} << 31;

/// One argument as Python sees it: `count` numbers, or all that are left where that is 0.
struct ArgumentName {
  const char* name;
  bool real;
  size_t count;
};

/// Takes arguments out of a step and says what is wrong with the first that does not fit.
class ReadArguments {
 public:
  explicit ReadArguments(const Step& step) : step_(step) {}

  void size(const char* name, size_t& value, int64_t lowest = 0) {
    const int64_t given = next(name);
    if (given < lowest || given >= kMaxSize) return fail(name);
    value = static_cast<size_t>(given);
  }
  void integer(const char* name, int64_t& value) { value = next(name); }
  void flag(const char* name, bool& value) {
    const int64_t given = next(name);
    if (given != 0 && given != 1) return fail(name);
    value = given == 1;
  }
  void real(const char* name, float& value) {
    if (floats_ >= step_.floats.size()) return fail(name, true);
    value = step_.floats[floats_++];
  }
  template <size_t N>
  void sizes(const char* name, std::array<size_t, N>& values) {
    for (size_t& value : values) size(name, value);
  }
  template <size_t N>
  void integers(const char* name, std::array<int64_t, N>& values) {
    for (int64_t& value : values) integer(name, value);
  }
  void list(const char* name, std::vector<size_t>& values) {
    values.assign(step_.ints.size() - ints_, 0);
    for (size_t& value : values) size(name, value);
  }
  void reals(const char* name, std::vector<float>& values) {
    values.assign(step_.floats.size() - floats_, 0.0f);
    for (float& value : values) real(name, value);
  }

  /// The first argument that is wrong, in words; empty when all are read and none is left.
  std::string wrong() const {
    if (!wrong_.empty()) return wrong_;
    const bool all = ints_ == step_.ints.size() && floats_ == step_.floats.size();
    return all ? "" : "wrong number of arguments";
  }

 private:
  int64_t next(const char* name) {
    if (ints_ < step_.ints.size()) return step_.ints[ints_++];
    fail(name, true);
    return -1;
  }
  void fail(const char* name, bool missing = false) {
    if (wrong_.empty()) wrong_ = missing ? "wrong number of arguments" : std::string("damaged ") + name;
  }

  const Step& step_;
  size_t ints_ = 0, floats_ = 0;
  std::string wrong_;
};

/// Collects their names.
class NameArguments {
 public:
  std::vector<ArgumentName> names;

  void size(const char* name, size_t, int64_t = 0) { names.push_back({name, false, 1}); }
  void integer(const char* name, int64_t) { names.push_back({name, false, 1}); }
  void flag(const char* name, bool) { names.push_back({name, false, 1}); }
  void real(const char* name, float) { names.push_back({name, true, 1}); }
  template <size_t N>
  void sizes(const char* name, const std::array<size_t, N>&) {
    names.push_back({name, false, N});
  }
  template <size_t N>
  void integers(const char* name, const std::array<int64_t, N>&) {
    names.push_back({name, false, N});
  }
  void list(const char* name, const std::vector<size_t>&) { names.push_back({name, false, 0}); }
  void reals(const char* name, const std::vector<float>&) { names.push_back({name, true, 0}); }
};

}  // namespace ek
