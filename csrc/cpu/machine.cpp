#include "cpu/machine.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <string>

namespace ek {
namespace {

constexpr size_t kKiB = 1024, kMiB = 1024 * kKiB;
/// Half of them, and all of them, are what the benches of the reference machine (Zen 4) were tuned with.
constexpr size_t kUsedL2 = kMiB, kUsedLastLevel = 32 * kMiB;
/// To tell a worker that sleeps, or to meet one that looks out on another core's line, and to wait for its end: 4 to 5.
/// Stated, not measured at start: the same machine then cuts work the same way in every run.
constexpr double kWakeUs = 4.5;

/// Square products of 512 on one thread: Zen 4 near 3.7 GHz, AVX2 and scalar on its successor without VNNI. Arm's are
/// two dot products of 16 bytes a cycle near 2.6 GHz, which i8mm doubles and the widening multiplies of Armv8.0
/// quarter.
constexpr double kMacsPerUs[kNumIsas] = {660, 40'000, 230'000, 230'000, 20'000, 80'000, 160'000};
/// Two fused multiply-adds of a register a cycle; emulated without one.
constexpr double kF32MacsPerUs[kNumIsas] = {100, 40'000, 40'000, 80'000, 20'000, 20'000, 20'000};
static_assert(kMacsPerUs[kNumIsas - 1] > 0, "an instruction set without its speed");

/// The first line of a file of sysfs; empty where there is none.
std::string line_of(const std::string& path) {
  char text[32] = "";
  if (std::FILE* const file = std::fopen(path.c_str(), "r"); file != nullptr) {
    if (std::fgets(text, sizeof text, file) == nullptr) text[0] = '\0';
    std::fclose(file);
  }
  text[std::strcspn(text, "\n")] = '\0';
  return text;
}

/// "1024K", "32M" or plain bytes; 0 for what is no cache's size.
size_t size_of(const std::string& text) {
  unsigned long number = 0;
  char unit = '\0';
  if (std::sscanf(text.c_str(), "%9lu%c", &number, &unit) < 1) return 0;
  return number * (unit == 'K' ? kKiB : unit == 'M' ? kMiB : 1);
}

/// Bytes of CPU 0's cache of this level, data's or both's; 0: not told.
size_t told_by_sysfs(int level) {
  for (int index = 0; index < 8; ++index) {
    const std::string folder = "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(index) + "/";
    if (line_of(folder + "level") == std::to_string(level) && line_of(folder + "type") != "Instruction") {
      return size_of(line_of(folder + "size"));
    }
  }
  return 0;
}

size_t told_by_libc(int level) {
#if defined(_SC_LEVEL2_CACHE_SIZE) && defined(_SC_LEVEL3_CACHE_SIZE)
  return static_cast<size_t>(std::max(0L, sysconf(level == 2 ? _SC_LEVEL2_CACHE_SIZE : _SC_LEVEL3_CACHE_SIZE)));
#else
  static_cast<void>(level);
  return 0;
#endif
}

/// A hypervisor may tell nonsense: figures no cache has are taken for silence.
size_t cache_bytes(int level) {
  for (const size_t told : {told_by_sysfs(level), told_by_libc(level)}) {
    if (told >= 64 * kKiB && told <= 4096 * kMiB) return told;
  }
  return 0;
}

Machine read_machine() {
  const size_t l2 = cache_bytes(2), l3 = cache_bytes(3);
  if (l2 == 0) return {kUsedL2, std::max(l3, kUsedLastLevel), kWakeUs};
  return {l2, std::max(l2, l3), kWakeUs};
}

const Machine* this_machine() {
  static const Machine kept = read_machine();
  return &kept;
}

std::atomic<const Machine*> g_machine{nullptr};  // null: not asked for yet

}  // namespace

const Machine& machine() {
  const Machine* known = g_machine.load(std::memory_order_acquire);
  if (known == nullptr) g_machine.store(known = this_machine(), std::memory_order_release);
  return *known;
}

void pretend_machine(const Machine* other) {
  g_machine.store(other == nullptr ? this_machine() : other, std::memory_order_release);
}

size_t resident_bytes() { return std::min(machine().l2_bytes, kUsedL2) / 2; }

size_t stream_bytes() { return std::min(machine().last_level_bytes, kUsedLastLevel); }

double macs_per_us(Isa isa) { return kMacsPerUs[static_cast<int>(isa)]; }

double f32_macs_per_us(Isa isa) { return kF32MacsPerUs[static_cast<int>(isa)]; }

bool worth_a_thread(double us) { return us > machine().wake_us; }

}  // namespace ek
