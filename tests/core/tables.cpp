#include "counting.h"
#include "kernels/fill.h"
#include "reference.h"

#ifdef EK_TEST_EVEX
EK_DECLARE_KERNELS(avxvnni_evex, kAvxVnni)
#endif

std::vector<const ek::Kernels*> ek::test::tables() {
  std::vector<const Kernels*> all;
  for (const Isa isa : available_isas()) all.push_back(&kernels(isa));
#ifdef EK_TEST_EVEX
  if (available_isas().front() == Isa::kAvx512Vnni) {  // filling the table takes its instructions, too
    static const Kernels* const evex = counting(kNumIsas, make_kernels_avxvnni_evex());
    all.push_back(evex);
  }
#endif
  return all;
}
