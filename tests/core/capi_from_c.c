/* A C compiler reads the header, and a C program multiplies: [1 2; 3 4] x [5 6; 7 8]. */
#include "edgekern/edgekern.h"

int capi_from_c(void);

int capi_from_c(void) {
  static const uint8_t a[4] = {1, 2, 3, 4};
  static const int8_t b[4] = {5, 6, 7, 8};
  static const int32_t expected[4] = {19, 22, 43, 50};
  int32_t c[4] = {0, 0, 0, 0};
  int wrong = 0, i;
  ek_packed* packed = NULL;
  const ek_api* ek = edgekern_get_api(EDGEKERN_ABI_VERSION);
  if (ek == NULL || !EK_HAS(ek, dequantize) || ek->pack_b(2, 2, b, 2, 1, &packed) != EK_OK) return -1;
  {
    const ek_gemm gemm = {2, a, 2, EK_U8, 0, packed, 1};
    if (ek->gemm_s32(&gemm, c, 2 * sizeof *c) != EK_OK) wrong = -1;
  }
  ek->free_packed(packed);
  for (i = 0; i < 4; ++i) wrong += c[i] != expected[i];
  return wrong;
}
