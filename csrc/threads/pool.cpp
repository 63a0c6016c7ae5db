// One job at a time. The caller publishes it, takes tasks itself, and waits until every worker that joined has left.
#include "threads/pool.h"

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/fp_env.h"

namespace ek {
namespace {

/// How long an idle worker looks for the next job before it sleeps: longer than what lies between two jobs of a
/// network, steps that one thread does alone and a caller's own code.
std::atomic<int> g_patience_us{50};
/// How often it looks before it asks the clock; and a caller, before it lets others run.
constexpr int kSpins = 400;

inline void cpu_relax() {
#if defined(__x86_64__)
  asm volatile("pause");
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// Tasks that one thread takes first. Every job gives thread i the same stretch of tasks, so that it finds in its
/// caches what it wrote the last time; who is done helps the next one.
struct alignas(64) Queue {
  std::atomic<size_t> next{0};
  size_t end = 0;
};

struct Job {
  TaskFn fn = nullptr;
  void* context = nullptr;
  size_t threads = 0;  // queues in use; thread 0 is the caller
  std::vector<Queue> queues;

  void work(size_t thread) {
    for (size_t i = 0; i < threads; ++i) {
      Queue& queue = queues[(thread + i) % threads];
      for (size_t task = queue.next.fetch_add(1); task < queue.end; task = queue.next.fetch_add(1)) fn(context, task);
    }
  }
};

// What a job is, in one word: its number, whether workers may still join, how many are inside.
constexpr uint64_t kInsideMask = 0xFFFF, kOpen = 0x10000, kJobUnit = 0x20000;

class Pool {
 public:
  /// False when the pool is in use; the caller then works alone.
  bool run(size_t num_tasks, size_t threads, TaskFn fn, void* context) {
    if (!busy_.try_lock()) return false;
    const std::lock_guard<std::mutex> in_use(busy_, std::adopt_lock);
    if (stopping_.load()) return false;
    job_.fn = fn;
    job_.context = context;
    job_.threads = 1 + hire(threads - 1);
    caller_cpu_.store(sched_getcpu());
    if (job_.queues.size() < job_.threads) job_.queues = std::vector<Queue>(job_.threads);
    for (size_t i = 0; i < job_.threads; ++i) {
      job_.queues[i].next.store(num_tasks * i / job_.threads);
      job_.queues[i].end = num_tasks * (i + 1) / job_.threads;
    }
    resting_.store(false);
    state_.store((state_.load() / kJobUnit + 1) * kJobUnit | kOpen);
    wake_sleepers();
    job_.work(0);
    // Those who have not joined by now are not waited for: a worker that sleeps costs no more than waking it.
    state_.fetch_and(~kOpen);
    for (int spin = 0; (state_.load() & kInsideMask) != 0; ++spin) {
      spin < kSpins ? cpu_relax() : static_cast<void>(sched_yield());
    }
    return true;
  }

  void rest() { resting_.store(true); }
  int spinning() const { return spinning_.load(); }

  /// Ends the workers once the running job is done; from then on every caller works alone.
  void stop() {
    const std::lock_guard<std::mutex> in_use(busy_);
    stopping_.store(true);
    wake_sleepers();
    for (std::thread& worker : workers_) worker.join();
  }

 private:
  /// Starts workers until there are `wanted`; fewer where the system refuses another thread. Returns how many to
  /// invite.
  size_t hire(size_t wanted) {
    try {
      while (workers_.size() < wanted) workers_.emplace_back([this, index = workers_.size() + 1] { serve(index); });
    } catch (const std::exception&) {
    }
    return std::min(wanted, workers_.size());
  }
  void wake_sleepers() {
    if (sleepers_.load() == 0) return;
    { const std::lock_guard<std::mutex> lock(mutex_); }  // who is about to sleep does so before it is notified
    wake_.notify_all();
  }
  bool news(uint64_t seen) const {
    const uint64_t state = state_.load();
    return stopping_.load() || ((state & kOpen) != 0 && state / kJobUnit != seen);
  }
  /// Looks out for news until patience ends, or the pool is to rest.
  bool expect_news(uint64_t seen) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(g_patience_us.load());
    spinning_.fetch_add(1);
    bool found = false;
    do {
      for (int spin = 0; spin < kSpins && !found && !resting_.load(); ++spin) {
        found = news(seen);
        cpu_relax();
      }
    } while (!found && !resting_.load() && std::chrono::steady_clock::now() < end);
    spinning_.fetch_sub(1);
    return found;
  }
  /// Enters the open job that is not `seen`, unless it closes first.
  bool join(uint64_t* seen) {
    for (uint64_t state = state_.load(); (state & kOpen) != 0 && state / kJobUnit != *seen;) {
      if (!state_.compare_exchange_weak(state, state + 1)) continue;
      *seen = state / kJobUnit;
      return true;
    }
    return false;
  }
  void serve(size_t index);

  std::mutex busy_;  // held by the one caller whose job is running
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<size_t> sleepers_{0};
  std::atomic<int> caller_cpu_{-1};
  std::atomic<uint64_t> state_{0};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> resting_{false};  // from rest() until the next job
  std::atomic<int> spinning_{0};
  Job job_;  // changed only while no worker is inside
  std::vector<std::thread> workers_;
};

thread_local bool t_inside_task = false;

/// Moves this thread away from `cpu`, if it is there. The scheduler likes to wake a worker where its caller runs, and
/// leaves it there for longer than a job lasts: two threads then take turns on one core.
void leave_cpu(int cpu, const cpu_set_t& allowed) {
  if (cpu < 0 || sched_getcpu() != cpu) return;
  cpu_set_t others = allowed;
  CPU_CLR(static_cast<size_t>(cpu), &others);
  if (CPU_COUNT(&others) > 0) sched_setaffinity(0, sizeof others, &others);
}

void Pool::serve(size_t index) {
  const FpGuard guard;
  t_inside_task = true;
  uint64_t seen = 0;
  cpu_set_t allowed;
  const bool known = sched_getaffinity(0, sizeof allowed, &allowed) == 0;
  for (;;) {
    if (!expect_news(seen)) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, [&] { return news(seen); });
      sleepers_.fetch_sub(1);
    }
    if (stopping_.load()) return;
    if (known) leave_cpu(caller_cpu_.load(), allowed);
    if (!join(&seen)) continue;
    if (index < job_.threads) job_.work(index);
    state_.fetch_sub(1);
  }
}

std::atomic<HostLoop> g_host_loop{nullptr};
std::atomic<void*> g_host{nullptr};

/// A task on a thread of the host: under our floating-point state, and loops inside it stay on that thread.
struct HostTask {
  TaskFn fn;
  void* context;

  static void run(void* self, size_t task) {
    const FpGuard guard;
    const bool nested = t_inside_task;
    t_inside_task = true;
    static_cast<HostTask*>(self)->fn(static_cast<HostTask*>(self)->context, task);
    t_inside_task = nested;
  }
};

std::atomic<Pool*> g_pool{nullptr};
std::mutex g_create;

/// The child of a fork has the parent's memory and none of its threads: it forgets the pool (never freed) and makes a
/// new one when it needs one.
void forget_pool() { g_pool.store(nullptr); }

Pool& pool() {
  Pool* current = g_pool.load();
  if (current != nullptr) return *current;
  const std::lock_guard<std::mutex> lock(g_create);
  current = g_pool.load();
  if (current == nullptr) {
    static const int registered = pthread_atfork([] { g_create.lock(); }, [] { g_create.unlock(); },
                                                 [] {
                                                   g_create.unlock();
                                                   forget_pool();
                                                 });
    static_cast<void>(registered);
    current = new Pool;
    g_pool.store(current);
  }
  return *current;
}

/// Joins the workers when the process ends in the ordinary way. The pool itself stays: threads that outlive main() may
/// still call.
struct AtExit {
  ~AtExit() {
    Pool* current = g_pool.load();
    if (current != nullptr && !t_inside_task) current->stop();
  }
} g_at_exit;

/// CPUs that the cgroup's quota amounts to, rounded up; 0 when there is none.
int quota_cpus() {
  const auto read = [](const char* path, const char* format, double* a, double* b) {
    std::FILE* file = std::fopen(path, "r");
    if (file == nullptr) return 0;
    const int fields = b == nullptr ? std::fscanf(file, format, a) : std::fscanf(file, format, a, b);
    std::fclose(file);
    return fields;
  };
  double quota = 0, period = 0;
  if (read("/sys/fs/cgroup/cpu.max", "%lf %lf", &quota, &period) != 2) {  // "max 100000" reads as nothing
    if (read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "%lf", &quota, nullptr) != 1) return 0;
    if (read("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "%lf", &period, nullptr) != 1) return 0;
  }
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period))) : 0;
}

int initial_threads() {
  int wanted = 0;
  return threads_from_env(&wanted).ok() && wanted > 0 ? wanted : std::min(kMaxThreads, allowed_cpus());
}

std::atomic<bool> g_set{false};  // by a call, and not by the environment

std::atomic<int>& setting() {
  static std::atomic<int> value{initial_threads()};
  return value;
}

}  // namespace

int allowed_cpus() {
  static const int count = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    const int affinity = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    const int quota = quota_cpus();
    return std::max(1, quota > 0 ? std::min(affinity, quota) : affinity);
  }();
  return count;
}

void set_host_threads(HostLoop loop, void* host) {
  g_host.store(host);
  g_host_loop.store(loop);
}

int num_threads() { return setting().load(); }
void set_num_threads(int n) {
  setting().store(std::clamp(n, 1, kMaxThreads));
  g_set.store(true);
}

Status told_num_threads(int* threads) {
  static const Status environment = [] {
    int unused = 0;
    return threads_from_env(&unused);
  }();
  *threads = num_threads();
  return g_set.load() ? Status() : environment;
}

Status threads_from_env(int* threads) {
  *threads = 0;
  const char* text = std::getenv("EDGEKERN_NUM_THREADS");
  if (text == nullptr || *text == '\0') return {};
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end != '\0' || value < 1 || value > kMaxThreads) {
    return {Code::kValue, std::string("EDGEKERN_NUM_THREADS=") + text + ": it must be an integer in [1, " +
                              std::to_string(kMaxThreads) + "]; unset it to use all CPUs that this process may use"};
  }
  *threads = static_cast<int>(value);
  return {};
}

void rest_workers() {
  if (Pool* const current = g_pool.load(); current != nullptr) current->rest();
}

int spinning_workers() {
  const Pool* const current = g_pool.load();
  return current == nullptr ? 0 : current->spinning();
}

void set_worker_patience(int microseconds) { g_patience_us.store(microseconds); }

void parallel_for(size_t num_tasks, int threads, TaskFn fn, void* context) {
  const size_t wanted = std::min(num_tasks, static_cast<size_t>(std::clamp(threads, 1, kMaxThreads)));
  if (wanted > 1 && !t_inside_task) {
    if (const HostLoop loop = g_host_loop.load(); loop != nullptr) {
      HostTask host_task{fn, context};
      loop(g_host.load(), num_tasks, static_cast<int>(wanted), &HostTask::run, &host_task);
      return;
    }
    t_inside_task = true;
    const bool done = pool().run(num_tasks, wanted, fn, context);
    t_inside_task = false;
    if (done) return;
  }
  for (size_t task = 0; task < num_tasks; ++task) fn(context, task);
}

}  // namespace ek
