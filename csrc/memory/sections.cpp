#include "memory/sections.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace ek {

Sections sections_of(const std::vector<Buffer>& buffers) {
  struct Moment {
    bool starts = false, ends = false;
    size_t section = 0;
  };
  Sections result;
  std::map<int64_t, Moment> moments;
  uint64_t unit = 0;
  for (const Buffer& b : buffers) {
    moments[b.lower].starts = true;
    moments[b.upper].ends = true;
    unit = std::gcd(unit, b.size);
  }
  result.unit = std::max<uint64_t>(unit, 1);

  // Only where something ends after something started are there buffers that no later moment has all of.
  size_t section = 0;
  bool grown = false;
  for (auto& [time, moment] : moments) {
    if (moment.ends && grown) {
      ++section;
      grown = false;
    }
    moment.section = section;
    grown |= moment.starts;
  }
  for (size_t i = 0; i < buffers.size(); ++i) {
    const Buffer& b = buffers[i];
    result.items.push_back(
        {moments[b.lower].section, moments[b.upper].section, static_cast<int64_t>(b.size / result.unit), i});
  }
  std::stable_sort(result.items.begin(), result.items.end(),
                   [](const Item& a, const Item& b) { return a.first < b.first; });

  const size_t count = result.items.size();
  result.members.resize(section);
  result.neighbors.resize(count);
  result.twins.resize(count);
  for (size_t i = 0; i < count; ++i) {
    const Item& a = result.items[i];
    for (size_t s = a.first; s < a.end; ++s) result.members[s].push_back(i);
    for (size_t j = 0; j < i; ++j) {
      const Item& b = result.items[j];
      if (b.end <= a.first) continue;
      result.neighbors[i].push_back(j);
      result.neighbors[j].push_back(i);
      if (a.first != b.first || a.end != b.end) continue;
      result.twins[i].push_back(j);
      result.twins[j].push_back(i);
    }
  }
  return result;
}

std::vector<std::vector<size_t>> ranks_of(const Sections& problem) {
  const size_t count = problem.items.size();
  std::vector<double> total(count, 0), width(count), area(count), size(count);
  for (const std::vector<size_t>& members : problem.members) {
    double sum = 0;
    for (const size_t i : members) sum += static_cast<double>(problem.items[i].size);
    for (const size_t i : members) total[i] = std::max(total[i], sum);
  }
  for (size_t i = 0; i < count; ++i) {
    const Item& item = problem.items[i];
    size[i] = static_cast<double>(item.size);
    width[i] = static_cast<double>(item.end - item.first);
    area[i] = size[i] * width[i];
  }
  using Keys = std::vector<const std::vector<double>*>;
  std::vector<std::vector<size_t>> ranks;
  for (const Keys& keys : {Keys{&total, &width, &area}, Keys{&total, &area, &width}, Keys{&width, &area, &total},
                           Keys{&area, &width, &total}, Keys{&size, &width}}) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) {
      for (const std::vector<double>* key : keys) {
        if ((*key)[i] != (*key)[j]) return (*key)[i] > (*key)[j];
      }
      return false;
    });
    std::vector<size_t>& rank = ranks.emplace_back(count);
    for (size_t r = 0; r < count; ++r) rank[order[r]] = r;
  }
  return ranks;
}

}  // namespace ek
