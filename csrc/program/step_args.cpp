#include "program/step_args.h"

#include <cmath>

#include "base/checked.h"
#include "gemm/pack.h"

namespace ek {
namespace {

constexpr size_t kWindowInts = 13;
/// Sides, channels and taps beyond this are damage; below it, sums of two products of attributes fit easily.
constexpr int64_t kMaxSize = int64_t{1} << 31;
/// Padding beyond this is damage, too; checking a pooling window walks over it.
constexpr size_t kMaxPad = 65535;
/// Kernel positions; also keeps the sum of an average inside int32.
constexpr size_t kMaxTaps = size_t{1} << 20;

Status bad(const Step& step, const std::string& what) {
  return {Code::kCorrupt, "program index: step '" + step.name + "' (" + step.op + "): " + what};
}

const TensorDef& input(const ProgramIndex& index, const Step& step, size_t i) { return index.tensors[step.in[i]]; }
const TensorDef& output(const ProgramIndex& index, const Step& step) { return index.tensors[step.out[0]]; }

uint64_t bytes_of(const TensorDef& tensor) {
  uint64_t bytes = 0;
  return tensor_bytes(tensor, &bytes) ? bytes : UINT64_MAX;
}
uint64_t elements_of(const TensorDef& tensor) { return bytes_of(tensor) / dtype_bytes(tensor.dtype); }

/// Product of sizes, or false.
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

bool counts(const Step& s, size_t in_lo, size_t in_hi, size_t blobs, size_t ints, size_t floats) {
  return s.in.size() >= in_lo && s.in.size() <= in_hi && s.out.size() == 1 && s.blobs.size() == blobs &&
         s.ints.size() == ints && s.floats.size() == floats;
}

bool blob_is(const ProgramIndex& index, const Step& step, size_t i, size_t bytes) {
  size_t padded = 0;
  return checked_add(bytes, 63, &padded) && index.blobs[step.blobs[i]].bytes == padded / 64 * 64;
}

/// Reads n sizes, each in [lo, kMaxSize).
bool sizes(const std::vector<int64_t>& ints, size_t at, size_t n, int64_t lo, size_t* out) {
  for (size_t i = 0; i < n; ++i) {
    if (ints[at + i] < lo || ints[at + i] >= kMaxSize) return false;
    out[i] = static_cast<size_t>(ints[at + i]);
  }
  return true;
}

/// The window at the front of `ints`. Any window may lie in the padding, of which there is at most kMaxPad at each end.
/// With sizes below 2^31 no coordinate of a tap can wrap around.
bool read_window(const std::vector<int64_t>& ints, Window* w) {
  size_t v[kWindowInts];
  if (!sizes(ints, 0, 11, 1, v) || !sizes(ints, 11, 2, 0, v + 11)) return false;
  *w = {v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], v[8], v[9], v[10], v[11], v[12]};
  const auto padded = [](size_t in, size_t out, size_t kernel, size_t stride, size_t dilation, size_t pad) {
    return pad <= kMaxPad && (out - 1) * stride + (kernel - 1) * dilation < in + pad + kMaxPad;
  };
  return w->kernel_h <= kMaxTaps && w->kernel_w <= kMaxTaps && w->taps() <= kMaxTaps &&
         padded(w->in_h, w->out_h, w->kernel_h, w->stride_h, w->dilation_h, w->pad_top) &&
         padded(w->in_w, w->out_w, w->kernel_w, w->stride_w, w->dilation_w, w->pad_left);
}

/// True when every output coordinate of one axis sees an input coordinate (dilation can step over a small one). Windows
/// that start inside the image do; those that start before it are as many as the padding.
bool covers(size_t in, size_t out, size_t kernel, size_t stride, size_t dilation, size_t pad) {
  for (size_t o = 0; o < out && o * stride < pad; ++o) {
    const size_t missing = pad - o * stride, tap = ceil_div(missing, dilation);
    if (tap >= kernel || tap * dilation - missing >= in) return false;
  }
  return (out - 1) * stride < in + pad;
}

/// A clamp around the zero point that stays inside the 8-bit range.
bool clamp_inside(float lo, float hi, const QuantParams& q) {
  const float low = static_cast<float>((q.sign == Sign::kU8 ? 0 : -128) - q.zero_point);
  return lo >= low && hi <= low + 255.0f && lo <= hi && lo == std::nearbyint(lo) && hi == std::nearbyint(hi);
}

bool zero_point_inside(int64_t zero_point, Sign sign) {
  const int64_t low = sign == Sign::kU8 ? 0 : -128;
  return zero_point >= low && zero_point <= low + 255;
}

/// The last attributes of kConv, kDepthwise and kGemm: clamps, and what a residual needs.
Status read_epilogue(const ProgramIndex& index, const Step& step, size_t ints_at, ConvStep* c) {
  const TensorDef& y = output(index, step);
  Epilogue& e = c->epilogue;
  e.lo = step.floats[0];
  e.hi = step.floats[1];
  if (!is_quantized(y.dtype)) {
    e.kind = y.dtype == DType::kF32 ? OutKind::kFloat32 : OutKind::kInt32;
    if (y.dtype != DType::kF32 && y.dtype != DType::kI32) return bad(step, "output dtype is not one it can store");
    if (c->residual || !(e.lo <= e.hi)) return bad(step, "a float result takes no residual and an ordered clamp");
    return {};
  }
  e.kind = OutKind::kQuantized;
  e.out = quant_of(y);
  if (c->residual) {
    e.residual_q = quant_of(input(index, step, 1));
    e.residual_ld = c->out_c;
    e.sum_q = e.out;
    e.sum_lo = step.floats[3];
    e.sum_hi = step.floats[4];
    const int64_t zero_point = step.ints[ints_at], is_signed = step.ints[ints_at + 1];
    if (is_signed != 0 && is_signed != 1) return bad(step, "damaged sign of the inner result");
    const Sign sign = is_signed == 1 ? Sign::kS8 : Sign::kU8;
    if (!zero_point_inside(zero_point, sign) || !(step.floats[2] > 0) || !std::isfinite(step.floats[2]) ||
        !clamp_inside(e.sum_lo, e.sum_hi, e.sum_q)) {
      return bad(step, "damaged quantization of the residual sum");
    }
    e.out = {step.floats[2], static_cast<int32_t>(zero_point), sign};
  }
  return clamp_inside(e.lo, e.hi, e.out) ? Status() : bad(step, "clamp outside the 8-bit range");
}

}  // namespace

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

Status parse_conv(const ProgramIndex& index, const Step& step, ConvStep* out) {
  const bool gemm = step.kind == StepKind::kGemm, depthwise = step.kind == StepKind::kDepthwise;
  const size_t head = gemm ? 3 : kWindowInts + 3;
  out->residual = step.in.size() == 2;
  if (!counts(step, 1, 2, 3, head + (out->residual ? 2 : 0), out->residual ? 5 : 2)) {
    return bad(step, "wrong number of arguments");
  }
  const TensorDef &x = input(index, step, 0), &y = output(index, step);
  if (!is_quantized(x.dtype) || (out->residual && !is_quantized(input(index, step, 1).dtype))) {
    return bad(step, "inputs must be 8-bit");
  }
  size_t tail[3];
  if (!sizes(step.ints, head - 3, 3, gemm ? 0 : 1, tail)) return bad(step, "damaged sizes");
  if (gemm) {
    out->window = {};
    out->window.batch = 1;
    out->window.in_h = out->window.out_h = tail[0];
    out->window.in_w = out->window.out_w = 1;
    out->in_c = tail[1];
    out->out_c = tail[2];
    out->groups = 1;
  } else {
    if (!read_window(step.ints, &out->window)) return bad(step, "window does not fit the image");
    out->in_c = tail[0];
    out->out_c = tail[1];
    out->groups = tail[2];
    const bool divides = out->in_c % out->groups == 0 && out->out_c % out->groups == 0;
    if (!divides || (depthwise && (out->groups != out->in_c || out->out_c != out->in_c))) {
      return bad(step, "channels do not divide into groups");
    }
  }
  const Window& w = out->window;
  if (!holds(x, {w.batch, w.in_h, w.in_w, out->in_c}) || !holds(y, {w.batch, w.out_h, w.out_w, out->out_c}) ||
      (out->residual && !holds(input(index, step, 1), {w.batch, w.out_h, w.out_w, out->out_c}))) {
    return bad(step, "tensor shapes do not match its sizes");
  }
  size_t weights = 0;
  if (depthwise) {
    out->padded_out = round_up(out->out_c, kStrip);
    weights = depthwise_packed_bytes(out->out_c, w.taps());
  } else {
    const PackedShape shape{out->out_c / out->groups, w.taps(), out->in_c / out->groups};
    size_t group = 0;
    if (!shape.bytes(&group) || !checked_mul(round_up(group, 64), out->groups, &weights)) {
      return bad(step, "weights too large");
    }
    out->padded_out = shape.padded_n() * out->groups;
  }
  if (!blob_is(index, step, 0, weights) || !blob_is(index, step, 1, out->padded_out * sizeof(int32_t)) ||
      !blob_is(index, step, 2, out->padded_out * sizeof(float))) {
    return bad(step, "weights, bias or multiplier have the wrong size");
  }
  return read_epilogue(index, step, head, out);
}

Status parse_layout(const ProgramIndex& index, const Step& step, LayoutStep* out) {
  size_t v[3];
  if (!counts(step, 1, 1, 0, 3, 0) || !sizes(step.ints, 0, 3, 0, v)) return bad(step, "damaged arguments");
  *out = {v[0], v[1], v[2]};
  const TensorDef &x = input(index, step, 0), &y = output(index, step);
  const TensorDef &real = step.kind == StepKind::kQuantizeNchw ? x : y,
                  &bytes = step.kind == StepKind::kQuantizeNchw ? y : x;
  const bool fits = real.dtype == DType::kF32 && is_quantized(bytes.dtype) && holds(x, {v[0], v[1], v[2]}) &&
                    holds(y, {v[0], v[1], v[2]});
  return fits ? Status() : bad(step, "tensors do not match its sizes");
}

Status parse_pool(const ProgramIndex& index, const Step& step, PoolStep* out) {
  const bool average = step.kind == StepKind::kAveragePool;
  if (!counts(step, 1, 1, 0, kWindowInts + (average ? 2 : 1), 0)) return bad(step, "wrong number of arguments");
  size_t channels = 0;
  if (!read_window(step.ints, &out->window) || !sizes(step.ints, kWindowInts, 1, 1, &channels)) {
    return bad(step, "window does not fit the image");
  }
  if (average && (step.ints[kWindowInts + 1] < 0 || step.ints[kWindowInts + 1] > 1)) {
    return bad(step, "count_include_pad is neither 0 nor 1");
  }
  const Window& win = out->window;
  if (!covers(win.in_h, win.out_h, win.kernel_h, win.stride_h, win.dilation_h, win.pad_top) ||
      !covers(win.in_w, win.out_w, win.kernel_w, win.stride_w, win.dilation_w, win.pad_left)) {
    return bad(step, "a window lies wholly in the padding");
  }
  out->channels = channels;
  out->count_include_pad = average && step.ints[kWindowInts + 1] == 1;
  const TensorDef &x = input(index, step, 0), &y = output(index, step);
  const bool fits = is_quantized(x.dtype) && is_quantized(y.dtype) &&
                    holds(x, {win.batch, win.in_h, win.in_w, channels}) &&
                    holds(y, {win.batch, win.out_h, win.out_w, channels});
  if (!fits) return bad(step, "tensors do not match its sizes");
  if (!average && (x.dtype != y.dtype || x.scale != y.scale || x.zero_point != y.zero_point)) {
    return bad(step, "a maximum keeps its input's quantization");
  }
  return {};
}

Status parse_concat(const ProgramIndex& index, const Step& step, ConcatStep* out) {
  if (step.in.empty() || step.out.size() != 1 || step.ints.size() != step.in.size() + 1 || !step.blobs.empty() ||
      !step.floats.empty()) {
    return bad(step, "wrong number of arguments");
  }
  std::vector<size_t> v(step.ints.size());
  if (!sizes(step.ints, 0, v.size(), 0, v.data())) return bad(step, "damaged sizes");
  out->rows = v[0];
  out->bytes.assign(v.begin() + 1, v.end());
  size_t row = 0;
  for (size_t i = 0; i < step.in.size(); ++i) {
    size_t piece = 0;
    if (!checked_mul(out->rows, out->bytes[i], &piece) || bytes_of(input(index, step, i)) != piece ||
        !checked_add(row, out->bytes[i], &row)) {
      return bad(step, "pieces do not match its tensors");
    }
  }
  size_t whole = 0;
  const bool fits = checked_mul(out->rows, row, &whole) && bytes_of(output(index, step)) == whole;
  return fits ? Status() : bad(step, "pieces do not fill its output");
}

Status parse_move(const ProgramIndex& index, const Step& step, MoveStep* out) {
  const size_t ints = step.kind == StepKind::kSlice ? 16 : step.kind == StepKind::kPad ? 13 : 9;
  if (!counts(step, 1, 1, 0, ints, 0)) return bad(step, "wrong number of arguments");
  if (!sizes(step.ints, 0, 4, 0, out->x_shape.data())) return bad(step, "damaged shape");
  const TensorDef &x = input(index, step, 0), &y = output(index, step);
  if (step.kind == StepKind::kTranspose) {
    int seen = 0;
    for (size_t i = 0; i < 4; ++i) {
      const int64_t axis = step.ints[4 + i];
      if (axis < 0 || axis > 3) return bad(step, "damaged permutation");
      out->perm[i] = static_cast<int>(axis);
      out->y_shape[i] = out->x_shape[static_cast<size_t>(axis)];
      seen |= 1 << axis;
    }
    const int64_t item = step.ints[8];
    if (seen != 15 || (item != 1 && item != 4 && item != 8)) return bad(step, "damaged permutation");
    out->item = static_cast<size_t>(item);
  } else if (!sizes(step.ints, 4, 4, 0, out->y_shape.data())) {
    return bad(step, "damaged shape");
  }
  for (size_t i = 0; i < 4; ++i) {
    const int64_t from = static_cast<int64_t>(out->x_shape[i]), to = static_cast<int64_t>(out->y_shape[i]);
    if (step.kind == StepKind::kSlice) {
      const int64_t start = step.ints[8 + i], stride = step.ints[12 + i];
      if (stride == 0 || stride <= -kMaxSize || stride >= kMaxSize) return bad(step, "damaged slice");
      if (to > 0) {
        int64_t span = 0, last = 0;
        const bool fits = !__builtin_mul_overflow(to - 1, stride, &span) && !__builtin_add_overflow(start, span, &last);
        if (!fits || start < 0 || start >= from || last < 0 || last >= from) return bad(step, "slice leaves its input");
      }
      out->start[i] = static_cast<ptrdiff_t>(start);
      out->step[i] = static_cast<ptrdiff_t>(stride);
    } else if (step.kind == StepKind::kPad) {
      const int64_t before = step.ints[8 + i];
      if (before < 0 || before > to || from > to - before) return bad(step, "pad does not hold its input");
      out->before[i] = static_cast<size_t>(before);
    }
  }
  if (step.kind == StepKind::kPad) {
    if (step.ints[12] < 0 || step.ints[12] > 255) return bad(step, "damaged pad value");
    out->value = static_cast<uint8_t>(step.ints[12]);
  }
  const auto& a = out->x_shape;
  const auto& b = out->y_shape;
  size_t x_elements = 0, y_elements = 0;
  const bool fits = product({a[0], a[1], a[2], a[3], out->item}, &x_elements) && bytes_of(x) == x_elements &&
                    product({b[0], b[1], b[2], b[3], out->item}, &y_elements) && bytes_of(y) == y_elements;
  return fits ? Status() : bad(step, "shapes do not match its tensors");
}

Status check_elementwise(const ProgramIndex& index, const Step& step) {
  const TensorDef& y = output(index, step);
  bool fits = true;
  for (size_t i = 0; i < step.in.size(); ++i) fits = fits && elements_of(input(index, step, i)) == elements_of(y);
  if (!fits) return bad(step, "tensors differ in size");
  const TensorDef& x = input(index, step, 0);
  switch (step.kind) {
    case StepKind::kQuantize:
      fits = counts(step, 1, 1, 0, 0, 0) && x.dtype == DType::kF32 && is_quantized(y.dtype);
      break;
    case StepKind::kDequantize:
      fits = counts(step, 1, 1, 0, 0, 0) && is_quantized(x.dtype) && y.dtype == DType::kF32;
      break;
    case StepKind::kLookup:
      fits =
          counts(step, 1, 1, 1, 0, 0) && is_quantized(x.dtype) && is_quantized(y.dtype) && blob_is(index, step, 0, 256);
      break;
    default:  // kAdd
      fits = counts(step, 2, 2, 0, 0, 2) && is_quantized(x.dtype) && is_quantized(input(index, step, 1).dtype) &&
             is_quantized(y.dtype) && clamp_inside(step.floats[0], step.floats[1], quant_of(y));
  }
  return fits ? Status() : bad(step, "damaged arguments");
}

Status check_step(const ProgramIndex& index, const Step& step) {
  if (step.in.empty() || step.out.size() != 1) return bad(step, "needs an input and one output");
  switch (step.kind) {
    case StepKind::kQuantize:
    case StepKind::kDequantize:
    case StepKind::kAdd:
    case StepKind::kLookup:
      return check_elementwise(index, step);
    case StepKind::kQuantizeNchw:
    case StepKind::kDequantizeNchw: {
      LayoutStep parsed;
      return parse_layout(index, step, &parsed);
    }
    case StepKind::kConv:
    case StepKind::kDepthwise:
    case StepKind::kGemm: {
      ConvStep parsed;
      return parse_conv(index, step, &parsed);
    }
    case StepKind::kMaxPool:
    case StepKind::kAveragePool: {
      PoolStep parsed;
      return parse_pool(index, step, &parsed);
    }
    case StepKind::kConcat: {
      ConcatStep parsed;
      return parse_concat(index, step, &parsed);
    }
    case StepKind::kSlice:
    case StepKind::kPad:
    case StepKind::kTranspose: {
      MoveStep parsed;
      return parse_move(index, step, &parsed);
    }
  }
  return bad(step, "unknown kind " + std::to_string(static_cast<int>(step.kind)));
}

}  // namespace ek
