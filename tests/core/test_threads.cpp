// The pool: every task once, whoever calls, from wherever, before and after a fork.
#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "base/fp_env.h"
#include "threads/pool.h"
#include "threads/turn.h"

using namespace ek;

namespace {

/// Runs `tasks` tasks and returns how many ran other than once.
size_t count_wrong(size_t tasks, int threads) {
  std::vector<std::atomic<int>> runs(tasks);
  parallel_for(tasks, threads, [&](size_t task) { runs[task].fetch_add(1); });
  size_t wrong = 0;
  for (const auto& n : runs) wrong += n.load() != 1;
  return wrong;
}

}  // namespace

TEST_CASE("each task runs once for any number of tasks and threads") {
  for (const int threads : {-1, 0, 1, 2, 3, 8}) {
    for (const size_t tasks : {size_t{0}, size_t{1}, size_t{2}, size_t{7}, size_t{1000}}) {
      CHECK(count_wrong(tasks, threads) == 0);
    }
  }
}

TEST_CASE("work of one call is seen by the caller and by the next call") {
  std::vector<size_t> values(4096, 0);
  for (int round = 0; round < 300; ++round) {
    parallel_for(64, 4, [&](size_t task) {
      for (size_t i = task * 64; i < (task + 1) * 64; ++i) values[i] += i;
    });
  }
  size_t wrong = 0;
  for (size_t i = 0; i < values.size(); ++i) wrong += values[i] != 300 * i;
  CHECK(wrong == 0);
}

TEST_CASE("a call from inside a task runs on that task's thread") {
  std::atomic<size_t> wrong{0}, inner{0};
  parallel_for(16, 4, [&](size_t) {
    const auto self = std::this_thread::get_id();
    parallel_for(8, 4, [&](size_t) {
      wrong += std::this_thread::get_id() != self;
      ++inner;
    });
  });
  CHECK(wrong == 0);
  CHECK(inner == 16 * 8);
}

TEST_CASE("several callers at once all finish") {
  std::atomic<size_t> wrong{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 200; ++round) wrong += count_wrong(32, 3);
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST_CASE("workers sleep between calls and wake again") {
  for (int round = 0; round < 5; ++round) {
    CHECK(count_wrong(100, 4) == 0);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST_CASE("the child of a fork has a pool of its own, and so has its parent still") {
  CHECK(count_wrong(64, 4) == 0);
  for (int round = 0; round < 3; ++round) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) _exit(count_wrong(500, 4) == 0 && count_wrong(500, 2) == 0 ? 0 : 1);
    CHECK(count_wrong(500, 4) == 0);
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
}

TEST_CASE("a fork while other threads are in the pool leaves both sides working") {
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) count_wrong(64, 3);
  });
  for (int round = 0; round < 5; ++round) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) _exit(count_wrong(200, 3) == 0 ? 0 : 1);
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  stop = true;
  busy.join();
}

TEST_CASE("a turn is one thread's at a time") {
  Turn turn;
  size_t count = 0;  // not atomic: lost or torn additions show
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      for (int round = 0; round < 5000; ++round) {
        const Turn::Guard guard(turn);
        count += guard.orphaned() ? 1000000 : 1;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(count == 20000);
  CHECK(!turn.orphaned());
}

TEST_CASE("the child of a fork takes over a turn that a thread of its parent holds, and is told so once") {
  Turn held, free;
  std::atomic<bool> inside{false}, stop{false};
  std::thread holder([&] {
    const Turn::Guard guard(held);
    inside = true;
    while (!stop) std::this_thread::yield();
  });
  std::thread waiter([&] { const Turn::Guard guard(held); });  // so that others wait for it when the fork comes
  while (!inside) std::this_thread::yield();
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round));
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      alarm(10);
      int right = held.orphaned() && !free.orphaned();
      right = right && held.take();
      right = right && !held.orphaned();
      held.give_back();
      right = right && !held.take();
      held.give_back();
      right = right && !free.take();
      _exit(right ? 0 : 1);
    }
    int status = -1;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
  }
  CHECK(!held.orphaned());
  stop = true;
  holder.join();
  waiter.join();
  CHECK(!held.take());
  held.give_back();
}

TEST_CASE("workers that are sent to rest look out no longer, and come back for the next job") {
  const auto deadline = [] { return std::chrono::steady_clock::now() + std::chrono::seconds(20); };
  // A job may be over before a sleeping worker is awake: it sleeps on.
  const auto some_spin = [&] {
    for (const auto end = deadline(); spinning_workers() == 0 && std::chrono::steady_clock::now() < end;) {
      CHECK(count_wrong(64, 2) == 0);
    }
    return spinning_workers() != 0;
  };
  const auto none_spins = [&] {
    const auto end = deadline();
    while (spinning_workers() != 0 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    return spinning_workers() == 0;
  };
  set_worker_patience(60'000'000);
  for (int round = 0; round < 3; ++round) {
    CHECK(some_spin());
    rest_workers();
    CHECK(none_spins());
  }
  set_worker_patience(50);
}

#if defined(__SSE__)
TEST_CASE("workers compute under the defined floating-point state") {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // what a thread inherits from a caller built with -ffast-math
  std::atomic<size_t> wrong{0};
  {
    const FpGuard guard;
    parallel_for(64, 6, [&](size_t) { wrong += (_mm_getcsr() & 0xE040) != 0; });
  }
  _mm_setcsr(before);
  CHECK(wrong == 0);
}
#endif

TEST_CASE("the setting is at least one and can be changed") {
  CHECK(allowed_cpus() >= 1);
  const int before = num_threads();
  CHECK(before >= 1);
  set_num_threads(3);
  CHECK(num_threads() == 3);
  set_num_threads(0);
  CHECK(num_threads() == 1);
  set_num_threads(1 << 30);
  CHECK(num_threads() == kMaxThreads);
  set_num_threads(before);
}

TEST_CASE("the environment's number of threads is read strictly") {
  const char* given = std::getenv("EDGEKERN_NUM_THREADS");
  const std::string before = given == nullptr ? "" : given;
  int threads = -1;
  for (const char* good : {"1", "7", "1024"}) {
    setenv("EDGEKERN_NUM_THREADS", good, 1);
    CHECK(threads_from_env(&threads).ok());
    CHECK(std::to_string(threads) == good);
  }
  for (const char* bad : {"0", "-3", "two", "4x", "1025", "99999999999999999999"}) {
    setenv("EDGEKERN_NUM_THREADS", bad, 1);
    const Status status = threads_from_env(&threads);
    CHECK(status.code() == Code::kValue);
    CHECK(status.message().find(bad) != std::string::npos);
  }
  unsetenv("EDGEKERN_NUM_THREADS");
  CHECK(threads_from_env(&threads).ok());
  CHECK(threads == 0);
  if (!before.empty()) setenv("EDGEKERN_NUM_THREADS", before.c_str(), 1);
}
