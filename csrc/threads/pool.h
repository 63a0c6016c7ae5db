// A small fork-safe thread pool. No OpenMP: a second OpenMP runtime beside torch's is the field's best-known deadlock.
#pragma once

#include <cstddef>

namespace ek {

/// CPUs this process may use: affinity mask, capped by the cgroup's cpu quota.
int allowed_cpus();

/// The package's setting: EDGEKERN_NUM_THREADS, else allowed_cpus(); changed by set_num_threads (n >= 1).
int num_threads();
void set_num_threads(int n);

using TaskFn = void (*)(void* context, size_t task);

/// Runs fn(context, 0 .. num_tasks-1) on up to `threads` threads, the caller being one; returns when all are done.
/// A call from inside a task, and a call while another thread uses the pool, runs on the caller's thread alone.
void parallel_for(size_t num_tasks, int threads, TaskFn fn, void* context);

template <typename F>
void parallel_for(size_t num_tasks, int threads, F&& body) {
  parallel_for(
      num_tasks, threads, [](void* context, size_t task) { (*static_cast<F*>(context))(task); }, &body);
}

}  // namespace ek
