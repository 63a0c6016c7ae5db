// Products of two 8-bit matrices that are both there at run time only, batch by batch.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/gemm.h"

namespace ek {

struct MatmulArgs {
  size_t batch = 1, rows = 0, k = 0, columns = 0;
  const uint8_t* a = nullptr;  // [batch][rows][k]
  QuantParams a_q;
  const uint8_t* b = nullptr;  // [batch][k][columns], int8 with zero point 0
  uint8_t* c = nullptr;        // [batch][rows][columns], bytes or floats
  Epilogue epilogue;           // one multiplier for all columns, [columns rounded up to kStrip] of it
  const Path* path = nullptr;  // as of GemmArgs
};

/// Scratch for B, packed: all of one product, or that of each of some tasks.
size_t matmul_scratch_bytes(const Runtime& rt, const MatmulArgs& args);
void matmul(const Runtime& rt, const MatmulArgs& args, uint8_t* scratch);
/// The path of gemm/paths.h that each product takes.
const char* matmul_path(const Runtime& rt, const MatmulArgs& args);
/// Keys of all that it could.
std::vector<const char*> matmul_choices(const Runtime& rt, const MatmulArgs& args);

}  // namespace ek
