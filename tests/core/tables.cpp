#include "reference.h"

namespace ek {
#ifdef EK_TEST_EVEX
extern const Kernels kernels_avxvnni_evex;
#endif
}  // namespace ek

std::vector<const ek::Kernels*> ek::test::tables() {
  std::vector<const Kernels*> all;
  for (const Isa isa : available_isas()) all.push_back(&kernels(isa));
#ifdef EK_TEST_EVEX
  if (available_isas().front() == Isa::kAvx512Vnni) all.push_back(&kernels_avxvnni_evex);
#endif
  return all;
}
