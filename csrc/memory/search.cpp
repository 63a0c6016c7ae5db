// Places buffers from the bottom up, depth first, after M. Moffitt, "MiniMalloc: A Lightweight Memory Allocator for
// Hardware-Accelerated Machine Learning", ASPLOS 2023:
//
// Canonical solutions: where a solution exists, there is one of the smallest sum of offsets. In it every buffer lies on
// the floor or on another, and none could drop. Only such solutions are looked for.
//
// Sections: time falls into stretches in which the same buffers are alive. What is not placed yet must fit between its
// floor and the capacity in each of them.
//
// Dominance: a buffer that is left out of the lowest place it could take must be kept from it by one that comes later.
// Where none can, a better solution lies elsewhere.
//
// Partition: buffers on two sides of a moment at which all are placed have nothing to do with each other.
//
// Orders: several, in turns of growing limits.
//
// To these the search adds reasons, as solvers of constraints keep them: each bound on an offset knows the placed
// buffers that it follows from. When a branch fails, decisions that had no part in it are undone without a second try.
// Far moments of a long program are nearly independent, and a search without reasons tries all of one for each of the
// other.
#include "memory/search.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <numeric>

#include "memory/sections.h"

namespace ek {
namespace {

constexpr int64_t kNone = -1;
constexpr int64_t kFar = std::numeric_limits<int64_t>::max();
constexpr uint64_t kNodesAClock = 64;
constexpr uint64_t kNodesATurn = 2000;

/// How often each buffer stood where there was no room, the last times most: it is placed first of those that can be.
/// In integers, so that a search is the same on all machines.
class Trouble {
 public:
  explicit Trouble(size_t count) : of_(count, 0) {}
  uint64_t of(size_t i) const { return of_[i]; }
  void add(size_t i) { of_[i] += step_; }
  void next() {
    step_ += step_ / 1024;
    if (step_ < kLargest) return;
    step_ /= kShrink;
    for (uint64_t& x : of_) x /= kShrink;
  }

 private:
  static constexpr uint64_t kLargest = uint64_t{1} << 40, kShrink = uint64_t{1} << 28;
  uint64_t step_ = 1024;
  std::vector<uint64_t> of_;
};

class Search {
 public:
  Search(const Sections& problem, int64_t capacity, const std::vector<size_t>& rank, uint64_t most_nodes,
         Trouble* trouble, Effort* effort)
      : p_(problem),
        capacity_(capacity),
        rank_(rank),
        trouble_(trouble),
        effort_(effort),
        end_nodes_(effort->nodes + std::min(most_nodes, effort->most_nodes - effort->nodes)),
        words_((p_.items.size() + 63) / 64),
        offset_(p_.items.size(), kNone),
        floor_(p_.items.size(), 0),
        least_(p_.items.size(), 0),
        left_out_(p_.items.size(), kNone),
        lowest_(p_.members.size(), 0),
        filled_(p_.members.size(), 0),
        stamp_(p_.members.size(), 0),
        waiting_(p_.members),
        why_(p_.items.size() * words_, 0),
        why_left_out_(p_.items.size() * words_, 0),
        conflict_(words_, 0) {}

  Fits run() {
    std::vector<size_t> all(p_.items.size());
    std::iota(all.begin(), all.end(), size_t{0});
    start_changes();
    for (const size_t i : all) touch(i);
    if (infer(all) && solve_parts(all)) return Fits::kYes;
    return stopped_ ? Fits::kUnknown : Fits::kNo;
  }

  int64_t offset_of(size_t i) const { return offset_[i]; }

 private:
  // Undoing: old values, in the order of writing.
  struct Saved {
    int64_t* where;
    int64_t value;
  };
  struct SavedWhy {
    uint64_t* where;
    size_t at;
  };
  struct Mark {
    size_t values, whys;
  };

  void set(int64_t* where, int64_t value) {
    saved_.push_back({where, *where});
    *where = value;
  }
  uint64_t* save_why(uint64_t* where) {
    saved_whys_.push_back({where, why_pool_.size()});
    why_pool_.insert(why_pool_.end(), where, where + words_);
    return where;
  }
  Mark mark() const { return {saved_.size(), saved_whys_.size()}; }
  void undo(const Mark& mark) {
    for (; saved_.size() > mark.values; saved_.pop_back()) *saved_.back().where = saved_.back().value;
    for (; saved_whys_.size() > mark.whys; saved_whys_.pop_back()) {
      std::copy_n(why_pool_.begin() + static_cast<int64_t>(saved_whys_.back().at), words_, saved_whys_.back().where);
      why_pool_.resize(saved_whys_.back().at);
    }
  }

  uint64_t* why(size_t i) { return &why_[i * words_]; }
  uint64_t* why_left_out(size_t i) { return &why_left_out_[i * words_]; }
  void join(uint64_t* into, const uint64_t* from) const {
    for (size_t w = 0; w < words_; ++w) into[w] |= from[w];
  }
  static void add(uint64_t* set, size_t i) { set[i / 64] |= uint64_t{1} << (i % 64); }
  static void remove(uint64_t* set, size_t i) { set[i / 64] &= ~(uint64_t{1} << (i % 64)); }
  bool in_conflict(size_t i) const { return (conflict_[i / 64] >> (i % 64)) & 1; }
  void clear_conflict() { std::fill(conflict_.begin(), conflict_.end(), 0); }

  bool placed(size_t i) const { return offset_[i] != kNone; }

  void start_changes() {
    ++tick_;
    changed_.clear();
    first_changed_ = p_.members.size();
    end_changed_ = 0;
  }
  void touch(size_t i) {
    first_changed_ = std::min(first_changed_, p_.items[i].first);
    end_changed_ = std::max(end_changed_, p_.items[i].end);
    for (size_t s = p_.items[i].first; s < p_.items[i].end; ++s) {
      if (stamp_[s] == tick_) continue;
      stamp_[s] = tick_;
      changed_.push_back(s);
    }
  }

  /// Lifts what was left out above the lowest of those that can still keep it from its floor. False, with the conflict,
  /// where there is none.
  bool lift(size_t j, bool* lifted) {
    const int64_t top = floor_[j] + p_.items[j].size;
    int64_t support = kFar;
    for (const size_t i : p_.neighbors[j]) {
      if (!placed(i) && least_[i] < top) support = std::min(support, least_[i] + p_.items[i].size);
    }
    if (support <= least_[j]) return true;
    clear_conflict();
    join(conflict_.data(), why(j));
    join(conflict_.data(), why_left_out(j));
    for (const size_t i : p_.neighbors[j]) {
      if (placed(i)) {
        add(conflict_.data(), i);
      } else {
        join(conflict_.data(), why(i));
      }
    }
    if (support == kFar) return false;
    set(&least_[j], support);
    std::copy(conflict_.begin(), conflict_.end(), save_why(why(j)));
    touch(j);
    *lifted = true;
    return true;
  }

  /// What must lie in a section, one above the other, each at its least offset at the lowest: is there room?
  bool check_section(size_t s) {
    // Kept from the last time, when it was nearly the same.
    std::vector<size_t>& waiting = waiting_[s];
    const auto key = [&](size_t i) { return placed(i) ? kFar : least_[i]; };
    for (size_t n = 1; n < waiting.size(); ++n) {
      const size_t i = waiting[n];
      const int64_t mine = key(i);
      size_t k = n;
      for (; k > 0 && key(waiting[k - 1]) > mine; --k) waiting[k] = waiting[k - 1];
      waiting[k] = i;
    }
    int64_t filled = 0;
    size_t block = 0;  // nothing between it and the top need be empty
    for (size_t k = 0; k < waiting.size() && !placed(waiting[k]); ++k) {
      if (least_[waiting[k]] > filled) {
        filled = least_[waiting[k]];
        block = k;
      }
      filled += p_.items[waiting[k]].size;
      if (filled <= capacity_) continue;
      clear_conflict();
      for (size_t b = block; b <= k; ++b) {
        join(conflict_.data(), why(waiting[b]));
        trouble_->add(waiting[b]);
      }
      trouble_->next();
      return false;
    }
    set(&lowest_[s], key(waiting.front()));
    set(&filled_[s], filled);
    return true;
  }

  bool infer(const std::vector<size_t>& rest) {
    for (bool lifted = true; lifted;) {
      lifted = false;
      for (const size_t j : rest) {
        if (left_out_[j] != floor_[j] || p_.items[j].end <= first_changed_ || p_.items[j].first >= end_changed_)
          continue;
        if (!lift(j, &lifted)) return false;
      }
    }
    return std::all_of(changed_.begin(), changed_.end(), [&](size_t s) { return check_section(s); });
  }

  /// Of two with the same lifetime the smaller lies below where they touch, and of two alike the first.
  bool in_order(size_t c) {
    for (const size_t i : p_.twins[c]) {
      const Item &a = p_.items[i], &b = p_.items[c];
      const bool before = a.size != b.size ? a.size < b.size : i < c;
      clear_conflict();
      add(conflict_.data(), c);
      if (placed(i) && offset_[i] + a.size == floor_[c] && !before) {
        add(conflict_.data(), i);
        return false;
      }
      if (!placed(i) && a.size == b.size && i < c) {
        join(conflict_.data(), why(i));
        join(conflict_.data(), why(c));
        return false;
      }
    }
    return true;
  }

  bool place(size_t c, const std::vector<size_t>& rest) {
    if (!in_order(c)) return false;
    const int64_t at = floor_[c], top = at + p_.items[c].size;
    start_changes();
    set(&offset_[c], at);
    touch(c);
    for (const size_t i : p_.neighbors[c]) {
      if (placed(i) || floor_[i] >= top) continue;
      set(&floor_[i], top);
      if (least_[i] >= top) continue;
      set(&least_[i], top);
      uint64_t* reasons = save_why(why(i));
      if (p_.items[i].size > at)
        std::fill(reasons, reasons + words_, 0);  // it could not lie below, whatever was placed
      add(reasons, c);
      touch(i);
    }
    return infer(rest);
  }

  bool solve_parts(const std::vector<size_t>& rest) {
    if (rest.empty()) return true;
    std::vector<std::vector<size_t>> parts;
    size_t begin = 0, end = p_.items[rest[0]].end;
    for (size_t k = 1; k < rest.size(); ++k) {  // sorted by the start
      const Item& item = p_.items[rest[k]];
      if (item.first >= end) {
        parts.emplace_back(rest.begin() + static_cast<int64_t>(begin), rest.begin() + static_cast<int64_t>(k));
        begin = k;
      }
      end = std::max(end, item.end);
    }
    if (parts.empty()) return solve(rest);
    parts.emplace_back(rest.begin() + static_cast<int64_t>(begin), rest.end());
    std::stable_sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.size() < b.size(); });
    return std::all_of(parts.begin(), parts.end(), [&](const auto& part) { return solve(part); });
  }

  bool count_node() {
    ++effort_->nodes;
    if (effort_->nodes % kNodesAClock == 0 && std::chrono::steady_clock::now() >= effort_->end) effort_->late = true;
    stopped_ = effort_->nodes >= end_nodes_ || effort_->late;
    return !stopped_;
  }

  /// Of the buffers that may lie lowest of all, the one that made most trouble so far.
  size_t choose(const std::vector<size_t>& rest) const {
    size_t best = rest.front();
    for (const size_t i : rest) {
      if (least_[i] != least_[best]) {
        if (least_[i] < least_[best]) best = i;
      } else if (trouble_->of(i) != trouble_->of(best)) {
        if (trouble_->of(i) > trouble_->of(best)) best = i;
      } else if (rank_[i] < rank_[best]) {
        best = i;
      }
    }
    return best;
  }

  bool solve(const std::vector<size_t>& rest) {
    std::vector<size_t> others;
    for (;;) {
      if (!count_node()) return false;
      const size_t c = choose(rest);
      others.clear();
      std::copy_if(rest.begin(), rest.end(), std::back_inserter(others), [&](size_t i) { return i != c; });
      const Mark here = mark();
      if (place(c, others) && solve_parts(others)) return true;
      undo(here);
      if (stopped_ || !in_conflict(c)) return false;  // without its part, the next try would fail in the same way
      remove(conflict_.data(), c);
      std::copy(conflict_.begin(), conflict_.end(), save_why(why_left_out(c)));
      start_changes();
      set(&left_out_[c], floor_[c]);
      touch(c);
      if (!infer(rest)) return false;
    }
  }

  const Sections& p_;
  const int64_t capacity_;
  const std::vector<size_t>& rank_;
  Trouble* trouble_;
  Effort* effort_;
  const uint64_t end_nodes_;
  const size_t words_;
  bool stopped_ = false;

  std::vector<int64_t> offset_;    // kNone: not placed
  std::vector<int64_t> floor_;     // the top of what is placed below
  std::vector<int64_t> least_;     // no lower in any solution of this branch
  std::vector<int64_t> left_out_;  // the floor at which it shall not lie
  std::vector<int64_t> lowest_;    // a section's least offset
  std::vector<int64_t> filled_;    // how high a section must be
  std::vector<uint64_t> stamp_;
  uint64_t tick_ = 0;
  size_t first_changed_ = 0, end_changed_ = 0;
  std::vector<size_t> changed_;
  std::vector<std::vector<size_t>>
      waiting_;  // of each section: its members by their least offsets, the placed ones last
  std::vector<uint64_t> why_, why_left_out_, conflict_;

  std::vector<Saved> saved_;
  std::vector<SavedWhy> saved_whys_;
  std::vector<uint64_t> why_pool_;
};

/// 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ...: turns that are mostly short and never bounded (Luby, Sinclair, Zuckerman, 1993).
uint64_t luby(uint64_t n) {
  for (;;) {
    uint64_t power = 1;
    while (2 * power - 1 < n) power *= 2;
    if (2 * power - 1 == n) return power;
    n -= power - 1;
  }
}

}  // namespace

Fits search_fit(const std::vector<Buffer>& buffers, uint64_t capacity, Effort* effort, std::vector<uint64_t>* offsets) {
  const Sections problem = sections_of(buffers);
  const int64_t units = static_cast<int64_t>(capacity / problem.unit);
  const std::vector<std::vector<size_t>> ranks = ranks_of(problem);
  Trouble trouble(buffers.size());
  for (uint64_t turn = 0; !effort->spent(); ++turn) {
    const uint64_t most_nodes = kNodesATurn * luby(turn / ranks.size() + 1);
    Search search(problem, units, ranks[turn % ranks.size()], most_nodes, &trouble, effort);
    const Fits fits = search.run();
    if (fits == Fits::kUnknown) continue;
    for (size_t i = 0; fits == Fits::kYes && i < buffers.size(); ++i) {
      (*offsets)[problem.items[i].id] = static_cast<uint64_t>(search.offset_of(i)) * problem.unit;
    }
    return fits;
  }
  return Fits::kUnknown;
}

}  // namespace ek
