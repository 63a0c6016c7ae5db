#include "kernels/table.h"

#include <atomic>

#include "cpu/machine.h"
#include "kernels/fill.h"

EK_DECLARE_KERNELS(scalar, kScalar)
#if defined(__x86_64__)
EK_DECLARE_KERNELS(avx2, kAvx2)
EK_DECLARE_KERNELS(avxvnni, kAvxVnni)
EK_DECLARE_KERNELS(avx512vnni, kAvx512Vnni)
#elif defined(__aarch64__)
EK_DECLARE_KERNELS(neon, kNeon)
EK_DECLARE_KERNELS(neon_dotprod, kNeonDotprod)
EK_DECLARE_KERNELS(neon_i8mm, kNeonI8mm)
#endif

#define EK_RETURN_KERNELS(isa)                         \
  {                                                    \
    static const Kernels table = make_kernels_##isa(); \
    return table;                                      \
  }

namespace ek {
namespace {

std::atomic<const Kernels*> g_tables[kNumIsas];  // null until they are asked for

const Kernels& own_table(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      EK_RETURN_KERNELS(avx2)
    case Isa::kAvxVnni:
      EK_RETURN_KERNELS(avxvnni)
    case Isa::kAvx512Vnni:
      EK_RETURN_KERNELS(avx512vnni)
#elif defined(__aarch64__)
    case Isa::kNeon:
      EK_RETURN_KERNELS(neon)
    case Isa::kNeonDotprod:
      EK_RETURN_KERNELS(neon_dotprod)
    case Isa::kNeonI8mm:
      EK_RETURN_KERNELS(neon_i8mm)
#endif
    default:
      EK_RETURN_KERNELS(scalar)
  }
}

}  // namespace

const Kernels& kernels(Isa isa) {
  std::atomic<const Kernels*>& current = g_tables[static_cast<size_t>(isa)];
  const Kernels* table = current.load(std::memory_order_acquire);
  if (table != nullptr) return *table;
  machine();  // read before anything runs: running allocates nothing and opens no file
  const Kernels& own = own_table(isa);
  return current.compare_exchange_strong(table, &own) ? own : *table;
}

const Kernels& replace_kernels(Isa isa, const Kernels* table) {
  const Kernels& before = kernels(isa);
  g_tables[static_cast<size_t>(isa)].store(table);
  return before;
}

}  // namespace ek
