// A futex: the whole lock is one word, so that a fork finds it free or held and never in between.
#include "threads/turn.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace ek {
namespace {

/// Forks between the process that loaded this library and this one, + 1.
std::atomic<uint32_t> g_generation{1};

[[maybe_unused]] const int g_registered = pthread_atfork(nullptr, nullptr, [] { g_generation.fetch_add(1); });

long futex(std::atomic<uint32_t>* word, int operation, uint32_t value) {
  static_assert(sizeof(*word) == sizeof(uint32_t), "the system looks at the word itself");
  return syscall(SYS_futex, word, operation | FUTEX_PRIVATE_FLAG, value, nullptr, nullptr, 0);
}

}  // namespace

bool Turn::take() {
  const uint32_t mine = g_generation.load() * 2;
  uint32_t seen = 0;
  if (word_.compare_exchange_strong(seen, mine)) return false;
  for (;;) {
    if (seen == mine && !word_.compare_exchange_strong(seen, mine + 1)) continue;  // freed, or marked by another
    if ((seen | 1) == mine + 1) {
      futex(&word_, FUTEX_WAIT, mine + 1);
      seen = 0;
    }
    // Whoever has waited leaves the mark: there may be more who do.
    const bool orphaned = seen != 0;
    if (word_.compare_exchange_strong(seen, mine + 1)) return orphaned;
  }
}

bool Turn::orphaned() const {
  const uint32_t seen = word_.load();
  return seen != 0 && seen / 2 != g_generation.load();
}

void Turn::give_back() {
  if ((word_.exchange(0) & 1) != 0) futex(&word_, FUTEX_WAKE, 1);
}

}  // namespace ek
