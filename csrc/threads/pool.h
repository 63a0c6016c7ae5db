// A small fork-safe thread pool. No OpenMP: a second OpenMP runtime beside torch's is the field's best-known deadlock.
#pragma once

#include <cstddef>

#include "base/status.h"

namespace ek {

/// More threads than this are asked for by mistake only; scratch memory grows with them.
inline constexpr int kMaxThreads = 1024;

/// CPUs this process may use: affinity mask, capped by the cgroup's cpu quota.
int allowed_cpus();

/// The package's setting: EDGEKERN_NUM_THREADS, else allowed_cpus(). set_num_threads() brings n into [1, kMaxThreads].
int num_threads();
void set_num_threads(int n);
/// Reads EDGEKERN_NUM_THREADS; 0 when it is not set. Refuses what is no number in [1, kMaxThreads].
Status threads_from_env(int* threads);
/// num_threads(), for callers who can be told of an environment that was refused; not once set_num_threads() was
/// called.
Status told_num_threads(int* threads);

/// Idle workers stop looking out for the next job and sleep until there is one: before a while in which something else
/// wants the CPUs.
void rest_workers();
/// Workers that look out for the next job now, which costs a CPU each.
int spinning_workers();
/// How long an idle worker looks out before it sleeps. For tests.
void set_worker_patience(int microseconds);

using TaskFn = void (*)(void* context, size_t task);

/// A host's own loop: runs task(task_context, 0 .. count-1) on at most `threads` threads and returns when all are done.
using HostLoop = void (*)(void* host, size_t count, int threads, TaskFn task, void* task_context);
/// From now on parallel_for() runs on the host's threads; null brings the pool back. Not while a loop is running.
void set_host_threads(HostLoop loop, void* host);

/// Runs fn(context, 0 .. num_tasks-1) on up to `threads` threads, the caller being one; returns when all are done.
/// A call from inside a task, and a call while another thread uses the pool, runs on the caller's thread alone.
void parallel_for(size_t num_tasks, int threads, TaskFn fn, void* context);

template <typename F>
void parallel_for(size_t num_tasks, int threads, F&& body) {
  parallel_for(
      num_tasks, threads, [](void* context, size_t task) { (*static_cast<F*>(context))(task); }, &body);
}

}  // namespace ek
