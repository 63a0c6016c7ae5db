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

inline constexpr uint32_t kProgramVersion = 1;

enum class DType : uint8_t {
  kU8 = 0,
  kS8 = 1,
  kI32 = 2,
  kF32 = 3,
  kI64 = 4,
  kBool = 5,
  kF64 = 6
};  // i64.. : host borders only
size_t dtype_bytes(DType dtype);

/// A tensor in the arena. 8-bit image tensors are stored NHWC: `shape` is the stored order.
struct TensorDef {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  float scale = 1.0f;  // 8-bit only
  int32_t zero_point = 0;
  uint64_t offset = 0;    // bytes from the start of the arena, a multiple of 64
  int32_t alias_of = -1;  // a view (reshape) of an earlier tensor: same offset, same bytes
};

/// Constant bytes outside the index (weights, bias, multipliers, tables). Offsets count from the start of the file's
/// data section.
struct BlobDef {
  std::string name;
  uint64_t offset = 0;  // a multiple of 64
  uint64_t bytes = 0;   // a multiple of 64 (zero padded)
  std::array<uint8_t, 32> sha256{};
};

/// Kinds and their arguments. `in`, `out`: tensor ids. `blobs`: blob ids. `ints`, `floats`: in this order.
/// WINDOW stands for: batch in_h in_w out_h out_w kernel_h kernel_w stride_h stride_w dilation_h dilation_w pad_top
/// pad_left
enum class StepKind : uint16_t {
  kQuantize = 1,        // in f32            out 8-bit, same shape
  kQuantizeNchw = 2,    // in f32 NCHW       out 8-bit NHWC                 ints: batch channels pixels
  kDequantize = 3,      // in 8-bit          out f32
  kDequantizeNchw = 4,  // in 8-bit NHWC     out f32 NCHW                   ints: batch channels pixels
  kConv = 5,       // in x [residual]   out 8-bit | f32 (NHWC)         ints: WINDOW in_c out_c groups [mid_zero_point
                   // mid_is_signed]
                   //   blobs: packed weights, bias int32 [groups][n_pad16], multiplier f32 [groups][n_pad16]
                   //   floats: lo hi [mid_scale sum_lo sum_hi]   (bracketed: with a residual)
                   //   lo, hi: clamp around the zero point (8-bit out) or of the value (f32 out).
                   //   With a residual: mid_* is the quantisation of the convolution's own result; out's is the sum's.
  kDepthwise = 6,  // as kConv, groups == in_c == out_c; weights packed by pack_depthwise, bias and multiplier [n_pad16]
  kGemm = 7,  // in x [residual]   out 8-bit | f32 | i32          ints: rows k n [mid_zero_point mid_is_signed]; blobs,
              // floats as kConv
  kAdd = 8,   // in a b            out 8-bit, same shapes         floats: lo hi (around out's zero point)
  kLookup = 9,        // in x              out same bytes                 blobs: 256-byte table (padded to 64)
  kMaxPool = 10,      // in x              out                            ints: WINDOW channels
  kAveragePool = 11,  // in x              out                            ints: WINDOW channels count_include_pad
  kConcat = 12,       // in x0 x1 ...      out; pieces per row            ints: rows bytes0 bytes1 ...
  kSlice = 13,        // in x              out; 1-byte elements           ints: x_shape[4] y_shape[4] start[4] step[4]
  kPad = 14,  // in x              out; 1-byte elements           ints: x_shape[4] y_shape[4] before[4] value(0..255)
  kTranspose = 15,  // in x              out                            ints: x_shape[4] perm[4] item_bytes
};

enum class StepUnit : uint8_t {
  kCube = 0,
  kVector = 1
};  // which unit does the arithmetic; host steps are not in the index

struct Step {
  StepKind kind{};
  StepUnit unit = StepUnit::kVector;
  std::string name;  // of the ONNX node (the first of those fused)
  std::string op;    // ONNX operators that this step does, e.g. "Conv+Relu+Add"
  std::vector<uint32_t> in, out, blobs;
  std::vector<int64_t> ints;
  std::vector<float> floats;
};

/// Steps [begin, end) that run without leaving C++. A program without host steps has one segment.
struct Segment {
  uint32_t begin = 0, end = 0;
};

struct ProgramIndex {
  uint32_t version = kProgramVersion;
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

}  // namespace ek
