// The compiled model: a flat list of kernel steps over one planned arena.
//
// ProgramIndex is the whole of it but the weights. Its binary form (encode/decode, index.cpp) is the first blob of an
// .ekm file; every byte of it is checked before it is used (validate.cpp). A Session (session.h) is a program that
// runs.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace ek {

/// Of an index whose blobs are all whole, of one that says of each how it is stored, of one that has 4 bits, too, and
/// of one whose steps write over inputs, too.
inline constexpr uint32_t kProgramVersion = 2, kVersionWithStorage = 3, kVersionWithNibbles = 4, kVersionInPlace = 5;

enum class DType : uint8_t {
  kU8 = 0,
  kS8 = 1,
  kI32 = 2,
  kF32 = 3,
  kI64 = 4,
  kBool = 5,
  kF64 = 6,  // host borders only
  kF16 = 7,  // borders and what MAP converts
  kBf16 = 8
};
inline constexpr DType kLastDType = DType::kBf16;
size_t dtype_bytes(DType dtype);

/// A tensor in the arena. 8-bit image tensors are stored NHWC: `shape` is the stored order.
struct TensorDef {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  float scale = 1.0f;  // 8-bit only
  int32_t zero_point = 0;
  uint64_t offset = 0;  // bytes from the start of the arena, a multiple of 64
  // An earlier tensor with the same offset and as many bytes: this one is a view (reshape) of it, or, where a step
  // writes this one, it takes the place of what it was.
  int32_t alias_of = -1;
};

/// Bytes of a tensor; false when the product of its shape does not fit or a side is negative.
bool tensor_bytes(const TensorDef& tensor, uint64_t* bytes);

/// How a file has a blob: as steps read it; as halves, which are widened to float32 when a session is created; or with
/// its codes as 4 bits (weights/nibbles.h), which are widened to 8 then.
enum class Storage : uint8_t { kWhole = 0, kF16 = 1, kBf16 = 2, kInt4 = 3 };

/// Constant bytes outside the index (weights, bias, multipliers, tables). Offsets count from the start of the file's
/// data section.
struct BlobDef {
  std::string name;
  uint64_t offset = 0;  // a multiple of 64
  uint64_t bytes = 0;   // in the file, a multiple of 64 (zero padded)
  std::array<uint8_t, 32> sha256{};
  Storage stored = Storage::kWhole;
  // Of kInt4: equal parts, one a group of columns, each of so many codes, a multiple of 64, and sums behind them. The
  // file has the codes of all parts, zeros to a multiple of 64, and the sums of all parts.
  uint32_t parts = 0;
  uint64_t codes = 0;

  /// Of kInt4, where a valid index has it.
  uint64_t nibble_bytes() const { return (parts * codes / 2 + 63) / 64 * 64; }
  uint64_t sum_bytes() const { return parts == 0 ? 0 : (bytes - nibble_bytes()) / parts; }
};
/// Bytes of a blob as steps read it.
inline uint64_t held_bytes(const BlobDef& blob) {
  if (blob.stored == Storage::kInt4) return blob.parts * (blob.codes + blob.sum_bytes());
  return blob.stored == Storage::kWhole ? blob.bytes : 2 * blob.bytes;
}

/// Kinds of steps, ascending: name, number in a file, and the function that tells what a kind takes, refuses and does
/// (csrc/program/steps).
#define EK_STEP_KINDS(X)                            \
  X(kQuantize, 1, quantize_step)                    \
  X(kQuantizeNchw, 2, quantize_nchw_step)           \
  X(kDequantize, 3, dequantize_step)                \
  X(kDequantizeNchw, 4, dequantize_nchw_step)       \
  X(kConv, 5, conv_step)                            \
  X(kDepthwise, 6, depthwise_step)                  \
  X(kGemm, 7, gemm_step)                            \
  X(kAdd, 8, add_step)                              \
  X(kLookup, 9, lookup_step)                        \
  X(kMaxPool, 10, max_pool_step)                    \
  X(kAveragePool, 11, average_pool_step)            \
  X(kConcat, 12, concat_step)                       \
  X(kSlice, 13, slice_step)                         \
  X(kPad, 14, pad_step)                             \
  X(kTranspose, 15, transpose_step)                 \
  X(kSoftmax, 16, softmax_step)                     \
  X(kConstant, 17, constant_step)                   \
  X(kConvF32, 18, conv_f32_step)                    \
  X(kDepthwiseF32, 19, depthwise_f32_step)          \
  X(kGemmF32, 20, gemm_f32_step)                    \
  X(kMatmulF32, 21, matmul_f32_step)                \
  X(kConvTransposeF32, 22, conv_transpose_f32_step) \
  X(kAttentionF32, 23, attention_f32_step)          \
  X(kMap, 24, map_step)                             \
  X(kMapI64, 25, map_i64_step)                      \
  X(kReduce, 26, reduce_step)                       \
  X(kSoftmaxF32, 27, softmax_f32_step)              \
  X(kNormalize, 28, normalize_step)                 \
  X(kCumSum, 29, cum_sum_step)                      \
  X(kArgExtreme, 30, arg_extreme_step)              \
  X(kPoolF32, 31, pool_f32_step)                    \
  X(kResample, 32, resample_step)                   \
  X(kPick, 33, pick_step)                           \
  X(kPermute, 34, permute_step)                     \
  X(kGather, 35, gather_step)                       \
  X(kGatherElements, 36, gather_elements_step)      \
  X(kGatherNd, 37, gather_nd_step)                  \
  X(kRecurrent, 38, recurrent_step)                 \
  X(kScatterElements, 39, scatter_elements_step)    \
  X(kScatterNd, 40, scatter_nd_step)                \
  X(kGridSample, 41, grid_sample_step)              \
  X(kGemmDynamic, 42, gemm_dynamic_step)            \
  X(kMatmul, 47, matmul_step)                       \
  X(kRecurrentDynamic, 53, recurrent_dynamic_step)  \
  X(kConvWide, 54, conv_wide_step)                  \
  X(kDepthwiseWide, 55, depthwise_wide_step)        \
  X(kGemmWide, 56, gemm_wide_step)                  \
  X(kGemmInteger, 60, gemm_integer_step)            \
  X(kConvInteger, 61, conv_integer_step)            \
  X(kGemmScaled, 62, gemm_scaled_step)              \
  X(kGemmGroups, 63, gemm_groups_step)

#define EK_STEP_NUMBER(kind, number, type) kind = number,
enum class StepKind : uint16_t { EK_STEP_KINDS(EK_STEP_NUMBER) };
#undef EK_STEP_NUMBER

struct Step {
  StepKind kind{};
  std::string name;  // of the ONNX node (the first of those fused)
  std::string op;    // ONNX operators that this step does, e.g. "Conv+Relu+Add"
  std::vector<uint32_t> in, out, blobs;
  std::vector<int64_t> ints;  // arguments, as its StepType names them
  std::vector<float> floats;
};

/// Steps [begin, end) that run without leaving C++. A program without host steps has one segment.
struct Segment {
  uint32_t begin = 0, end = 0;
};

struct ProgramIndex {
  std::string producer;  // "edgekern 0.1.0"
  std::vector<TensorDef> tensors;
  std::vector<BlobDef> blobs;
  std::vector<Step> steps;
  std::vector<Segment> segments;
  std::vector<uint32_t> inputs, outputs;  // tensor ids
  uint64_t arena_bytes = 0;
  std::array<uint8_t, 32> header_sha256{};  // of the container's JSON header
};

/// Canonical little-endian bytes: equal indices give equal bytes.
std::string encode(const ProgramIndex& index);
/// Refuses whatever encode() would not have written: bad magic, version, counts, trailing bytes.
Status decode(const uint8_t* bytes, size_t size, ProgramIndex* index);
/// The same for an index at the front of more bytes; `used` is its length.
Status decode_front(const uint8_t* bytes, size_t size, ProgramIndex* index, size_t* used);
/// Everything a session relies on: ids, shapes, attribute counts and ranges, products that fit, tensors inside the
/// arena, no two live tensors overlapping (the plan is untrusted input), blobs inside `data_bytes` and of the size the
/// step needs.
Status validate(const ProgramIndex& index, uint64_t data_bytes);
/// Of a valid index: whether a step or a caller reads what neither a step nor a caller writes, as host steps do.
bool needs_host(const ProgramIndex& index);
/// Only that the tensors and blobs of a step exist.
Status check_ids(const ProgramIndex& index, const Step& step);

}  // namespace ek
