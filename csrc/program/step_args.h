// A step's attributes as typed structs. Parsing is checking: what parse() accepts, the session may run.
#pragma once

#include <array>
#include <vector>

#include "base/status.h"
#include "conv/conv.h"
#include "program/program.h"

namespace ek {

/// kConv, kDepthwise and kGemm (as 1 x 1 over rows). Epilogue pointers are filled in by the session.
struct ConvStep {
  Window window;
  size_t in_c = 0, out_c = 0, groups = 1;
  Epilogue epilogue;
  bool residual = false;
  size_t padded_out = 0;  // entries of bias and multiplier
};

struct LayoutStep {  // kQuantizeNchw, kDequantizeNchw
  size_t batch = 0, channels = 0, pixels = 0;
};

struct PoolStep {
  Window window;
  size_t channels = 0;
  bool count_include_pad = false;
};

struct ConcatStep {
  size_t rows = 0;
  std::vector<size_t> bytes;
};

struct MoveStep {  // kSlice, kPad, kTranspose
  std::array<size_t, 4> x_shape{}, y_shape{}, before{};
  std::array<ptrdiff_t, 4> start{}, step{};
  std::array<int, 4> perm{};
  uint8_t value = 0;
  size_t item = 1;
};

/// Bytes of a tensor; false when the product of its shape does not fit or a side is negative.
bool tensor_bytes(const TensorDef& tensor, uint64_t* bytes);
bool is_quantized(DType dtype);
QuantParams quant_of(const TensorDef& tensor);

/// Ids must have been checked. Each refuses attributes that do not match the step's tensors and blobs.
Status parse_conv(const ProgramIndex& index, const Step& step, ConvStep* out);
Status parse_layout(const ProgramIndex& index, const Step& step, LayoutStep* out);
Status parse_pool(const ProgramIndex& index, const Step& step, PoolStep* out);
Status parse_concat(const ProgramIndex& index, const Step& step, ConcatStep* out);
Status parse_move(const ProgramIndex& index, const Step& step, MoveStep* out);
/// Steps without a struct of their own: kQuantize, kDequantize, kAdd, kLookup.
Status check_elementwise(const ProgramIndex& index, const Step& step);

/// Any step, by its kind.
Status check_step(const ProgramIndex& index, const Step& step);

}  // namespace ek
