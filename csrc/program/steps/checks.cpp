#include "program/steps/checks.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/checked.h"

namespace ek {
namespace {

/// Padding beyond this is damage; checking a pooling window walks over it.
constexpr size_t kMaxPad = 65535;
/// Kernel positions; also keeps the sum of an average inside int32.
constexpr size_t kMaxTaps = size_t{1} << 20;

bool axis_fits(size_t in, size_t out, size_t kernel, size_t stride, size_t dilation, size_t pad) {
  return pad <= kMaxPad && kernel <= kMaxTaps && (out - 1) * stride + (kernel - 1) * dilation < in + pad + kMaxPad;
}

/// Dilation can step over a small image. Windows that start inside it see it; those that start before are as many as
/// the padding.
bool axis_covers(size_t in, size_t out, size_t kernel, size_t stride, size_t dilation, size_t pad) {
  for (size_t o = 0; o < out && o * stride < pad; ++o) {
    const size_t missing = pad - o * stride, tap = ceil_div(missing, dilation);
    if (tap >= kernel || tap * dilation - missing >= in) return false;
  }
  return (out - 1) * stride < in + pad;
}

}  // namespace

Status bad_step(const Step& step, const std::string& what) {
  return {Code::kCorrupt, "program index: step '" + step.name + "' (" + step.op + "): " + what};
}

bool tensor_bytes(const TensorDef& tensor, uint64_t* bytes) {
  size_t n = dtype_bytes(tensor.dtype);
  for (const int64_t side : tensor.shape) {
    if (side < 0 || !checked_mul(n, static_cast<size_t>(side), &n)) return false;
  }
  *bytes = n;
  return n < (uint64_t{1} << 48);
}

bool is_quantized(DType dtype) { return dtype == DType::kU8 || dtype == DType::kS8; }

QuantParams quant_of(const TensorDef& tensor) {
  return {tensor.scale, tensor.zero_point, tensor.dtype == DType::kS8 ? Sign::kS8 : Sign::kU8};
}

uint64_t bytes_of(const TensorDef& tensor) {
  uint64_t bytes = 0;
  return tensor_bytes(tensor, &bytes) ? bytes : UINT64_MAX;
}

uint64_t elements_of(const TensorDef& tensor) { return bytes_of(tensor) / dtype_bytes(tensor.dtype); }

bool has(const Step& step, size_t inputs, size_t blobs) {
  return step.in.size() == inputs && step.out.size() == 1 && step.blobs.size() == blobs;
}

bool product(std::initializer_list<size_t> factors, size_t* out) {
  *out = 1;
  for (const size_t f : factors) {
    if (!checked_mul(*out, f, out)) return false;
  }
  return true;
}

bool holds(const TensorDef& tensor, std::initializer_list<size_t> shape) {
  size_t elements = 0;
  return product(shape, &elements) && elements_of(tensor) == elements;
}

bool blob_is(const ProgramIndex& index, const Step& step, size_t i, size_t bytes) {
  const BlobDef& blob = index.blobs[step.blobs[i]];
  if (blob.stored == Storage::kInt4) return bytes == held_bytes(blob);
  if (blob.stored != Storage::kWhole) {
    if (bytes % sizeof(float) != 0) return false;
    bytes /= 2;
  }
  size_t padded = 0;
  return checked_add(bytes, 63, &padded) && blob.bytes == padded / 64 * 64;
}

bool clamp_inside(float lo, float hi, const QuantParams& q) {
  const float low = static_cast<float>((q.sign == Sign::kU8 ? 0 : -128) - q.zero_point);
  return lo >= low && hi <= low + 255.0f && lo <= hi && lo == std::nearbyint(lo) && hi == std::nearbyint(hi);
}

bool zero_point_inside(int64_t zero_point, Sign sign) {
  const int64_t low = sign == Sign::kU8 ? 0 : -128;
  return zero_point >= low && zero_point <= low + 255;
}

bool window_fits(const Window& w) {
  return axis_fits(w.in_h, w.out_h, w.kernel_h, w.stride_h, w.dilation_h, w.pad_top) &&
         axis_fits(w.in_w, w.out_w, w.kernel_w, w.stride_w, w.dilation_w, w.pad_left) && w.taps() <= kMaxTaps;
}

bool axes_fit(const Window3& w) {
  for (size_t i = 0; i < 3; ++i) {
    if (w.in[i] == 0 || w.out[i] == 0 || w.kernel[i] == 0 || w.stride[i] == 0 || w.dilation[i] == 0 ||
        !axis_fits(w.in[i], w.out[i], w.kernel[i], w.stride[i], w.dilation[i], w.pad[i])) {
      return false;
    }
  }
  return true;
}

bool window_fits(const Window3& w) { return axes_fit(w) && w.taps() <= kMaxTaps; }  // each at most 2^20

bool stays_inside(const TensorDef& tensor, std::initializer_list<Axis> axes) {
  size_t last = 0;
  for (const auto& [size, step] : axes) {
    size_t reach = 0;
    if (size == 0) return true;
    if (step < 0 || !checked_mul(size - 1, static_cast<size_t>(step), &reach) || !checked_add(last, reach, &last)) {
      return false;
    }
  }
  return last < elements_of(tensor);
}

bool is_whole(const TensorDef& tensor, std::initializer_list<Axis> axes) {
  std::vector<Axis> longer;
  for (const Axis& axis : axes) {
    if (axis.size == 0) return elements_of(tensor) == 0;
    if (axis.size > 1) longer.push_back(axis);
  }
  std::sort(longer.begin(), longer.end(), [](const Axis& a, const Axis& b) { return a.step < b.step; });
  size_t elements = 1;
  for (const auto& [size, step] : longer) {
    if (step <= 0 || static_cast<size_t>(step) != elements || !checked_mul(elements, size, &elements)) return false;
  }
  return elements == elements_of(tensor);
}

bool window_covers(const Window& w) {
  return axis_covers(w.in_h, w.out_h, w.kernel_h, w.stride_h, w.dilation_h, w.pad_top) &&
         axis_covers(w.in_w, w.out_w, w.kernel_w, w.stride_w, w.dilation_w, w.pad_left);
}

bool window_covers(const Window3& w) {
  for (size_t i = 0; i < 3; ++i) {
    if (!axis_covers(w.in[i], w.out[i], w.kernel[i], w.stride[i], w.dilation[i], w.pad[i])) return false;
  }
  return true;
}

}  // namespace ek
