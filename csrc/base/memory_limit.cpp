#include "base/memory_limit.h"

#include <sys/sysinfo.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

namespace ek {
namespace {

constexpr uint64_t kNone = UINT64_MAX;

/// The number in a file; kNone where there is no file, or "max" in it.
uint64_t number_in(const std::string& path) {
  std::FILE* const file = std::fopen(path.c_str(), "r");
  if (file == nullptr) return kNone;
  uint64_t value = kNone;
  if (std::fscanf(file, "%" SCNu64, &value) != 1) value = kNone;
  std::fclose(file);
  return value;
}

uint64_t sum(uint64_t a, uint64_t b) { return a < kNone - b ? a + b : kNone; }

/// The least that a control group and those it lies in allow. Version 1 does not count swap.
uint64_t limit_of(const std::string& root, std::string group, bool version2, uint64_t machine_swap) {
  uint64_t limit = kNone;
  for (;;) {
    const std::string folder = root + group;
    const uint64_t most = number_in(folder + (version2 ? "/memory.max" : "/memory.limit_in_bytes"));
    const uint64_t swap = version2 ? number_in(folder + "/memory.swap.max") : kNone;
    limit = std::min(limit, sum(most, std::min(swap, machine_swap)));
    if (group.empty()) return limit;
    group.resize(group.rfind('/'));
  }
}

/// The least that this process' control groups allow. Lines are `number:controllers:/group`; version 2 names none.
uint64_t group_limit(uint64_t machine_swap) {
  std::FILE* const file = std::fopen("/proc/self/cgroup", "r");
  if (file == nullptr) return kNone;
  uint64_t limit = kNone;
  char line[4096];
  while (std::fgets(line, sizeof line, file) != nullptr) {
    const char* const controllers = std::strchr(line, ':');
    const char* const group = controllers == nullptr ? nullptr : std::strchr(controllers + 1, '/');
    if (group == nullptr) continue;
    const bool version2 = controllers[1] == ':';
    if (!version2 && std::string(controllers, group).find("memory") == std::string::npos) continue;
    const std::string root = version2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    limit = std::min(limit, limit_of(root, std::string(group, std::strcspn(group, "\n")), version2, machine_swap));
  }
  std::fclose(file);
  return limit;
}

uint64_t find_limit() {
  struct sysinfo machine {};
  if (sysinfo(&machine) != 0) return kNone;
  const uint64_t swap = uint64_t{machine.totalswap} * machine.mem_unit;
  return std::min(uint64_t{machine.totalram} * machine.mem_unit + swap, group_limit(swap));
}

}  // namespace

uint64_t memory_limit() {
  static const uint64_t limit = find_limit();
  return limit;
}

NoMemory::NoMemory(uint64_t bytes) noexcept {
  std::snprintf(text_, sizeof text_, "no memory for %" PRIu64 " bytes; this process can have %" PRIu64, bytes,
                memory_limit());
}

void require_memory(uint64_t bytes) {
  if (bytes > memory_limit()) throw NoMemory(bytes);
}

}  // namespace ek
