#include "kernels/table.h"

#include <atomic>
#include <cstdlib>

#include "cpu/kept_isas.h"
#include "cpu/machine.h"
#include "kernels/fill.h"

EK_KEPT_ISAS(EK_DECLARE_KERNELS)

namespace ek {
namespace {

std::atomic<const Kernels*> g_tables[kNumIsas];  // null until they are asked for

const Kernels& own_table(Isa isa) {
#define EK_RETURN_KERNELS(name, id)                     \
  if (isa == Isa::id) {                                 \
    static const Kernels table = make_kernels_##name(); \
    return table;                                       \
  }
  EK_KEPT_ISAS(EK_RETURN_KERNELS)
  std::abort();  // available_isas() has no other
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
