#include "cpu/isa.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#include "cpu/kept_isas.h"

namespace ek {
namespace {

constexpr const char* kNames[kNumIsas] = {"scalar", "avx2",         "avxvnni",  "avx512vnni",
                                          "neon",   "neon_dotprod", "neon_i8mm"};

#if defined(__x86_64__)
std::vector<Isa> detect() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  const auto bit = [](unsigned reg, int n) { return ((reg >> n) & 1u) != 0; };
  __cpuid(1, a, b, c, d);
  // The OS must save the wide registers (XCR0) before any instruction may touch them.
  uint64_t xcr0 = 0;
  if (bit(c, 27)) {
    unsigned lo = 0, hi = 0;
    asm volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    xcr0 = (uint64_t{hi} << 32) | lo;
  }
  const bool ymm = (xcr0 & 0x6) == 0x6, zmm = (xcr0 & 0xE6) == 0xE6;
  const bool fma = bit(c, 12), f16c = bit(c, 29);
  unsigned b7 = 0, c7 = 0, a71 = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) b7 = b, c7 = c;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
  const bool avx2 = ymm && fma && f16c && bit(b7, 5);
  const bool avx512 = zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31) && bit(c7, 11);
  std::vector<Isa> found;
  if (avx2 && avx512) found.push_back(Isa::kAvx512Vnni);
  if (avx2 && bit(a71, 4)) found.push_back(Isa::kAvxVnni);
  if (avx2) found.push_back(Isa::kAvx2);
  found.push_back(Isa::kScalar);
  return found;
}
#elif defined(__aarch64__)
std::vector<Isa> detect() {
  constexpr unsigned long kAsimdDp = 1ul << 20, kI8mm = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM
  const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
  std::vector<Isa> found;
  if ((hwcap & kAsimdDp) != 0 && (hwcap2 & kI8mm) != 0) found.push_back(Isa::kNeonI8mm);
  if ((hwcap & kAsimdDp) != 0) found.push_back(Isa::kNeonDotprod);
  found.push_back(Isa::kNeon);
  found.push_back(Isa::kScalar);
  return found;
}
#else
std::vector<Isa> detect() { return {Isa::kScalar}; }
#endif

}  // namespace

const char* isa_name(Isa isa) { return kNames[static_cast<int>(isa)]; }

namespace {

#define EK_ISA_OF(name, id) Isa::id,
constexpr Isa kKept[] = {EK_KEPT_ISAS(EK_ISA_OF)};

std::vector<Isa> detect_kept() {
  std::vector<Isa> found = detect();
  const auto left_out = [](Isa isa) { return std::find(std::begin(kKept), std::end(kKept), isa) == std::end(kKept); };
  found.erase(std::remove_if(found.begin(), found.end(), left_out), found.end());
  return found;
}

/// "avx2, scalar".
template <typename Isas>
std::string names_of(const Isas& isas) {
  std::string names;
  for (const Isa isa : isas) names += (names.empty() ? "" : ", ") + std::string(isa_name(isa));
  return names;
}

/// Of a CPU that has nothing of what this build has.
Status no_isa() {
  return {Code::kUnsupportedIsa, "this build runs on " + names_of(kKept) +
                                     ", which this CPU does not have; build it with -DEDGEKERN_ISA=scalar, which every "
                                     "CPU runs, or without -DEDGEKERN_ISA"};
}

}  // namespace

const std::vector<Isa>& available_isas() {
  // Threads may outlive main(): so does this.
  static const std::vector<Isa>& found = *new std::vector<Isa>(detect_kept());
  return found;
}

namespace {

Status find_isa(const std::string& origin, const std::string& wanted, Isa* isa) {
  for (const Isa candidate : available_isas()) {
    if (wanted == isa_name(candidate)) {
      *isa = candidate;
      return {};
    }
  }
  if (available_isas().empty()) return no_isa();
  const std::vector<Isa> found = detect();
  const bool left_out = std::any_of(found.begin(), found.end(), [&](Isa one) { return wanted == isa_name(one); });
  return {Code::kUnsupportedIsa, origin + wanted + ": this " + (left_out ? "build" : "CPU") +
                                     " does not have it; it has " + names_of(available_isas())};
}

struct Default {
  Default() {
    if (available_isas().empty()) {
      status = no_isa();
      return;
    }
    isa = available_isas().front();
    const char* const wanted = std::getenv("EDGEKERN_ISA");
    if (wanted != nullptr && *wanted != '\0') status = find_isa("EDGEKERN_ISA=", wanted, &isa);
  }

  Isa isa = Isa::kScalar;
  Status status;
};

}  // namespace

const Status& default_isa(Isa* isa) {
  static const Default kept;
  *isa = kept.isa;
  return kept.status;
}

Status resolve_isa(const std::string& name, Isa* isa) {
  return name.empty() ? default_isa(isa) : find_isa("isa=", name, isa);
}

}  // namespace ek
