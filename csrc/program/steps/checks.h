// What the checks of several families ask.
#pragma once

#include <array>
#include <initializer_list>

#include "base/checked.h"
#include "conv/conv.h"
#include "conv/window3.h"
#include "program/steps/step.h"

namespace ek {

bool is_quantized(DType dtype);
QuantParams quant_of(const TensorDef& tensor);
/// Bytes and elements of a tensor whose shape has been checked.
uint64_t bytes_of(const TensorDef& tensor);
uint64_t elements_of(const TensorDef& tensor);

inline const TensorDef& input(const ProgramIndex& index, const Step& step, size_t i = 0) {
  return index.tensors[step.in[i]];
}
inline const TensorDef& output(const ProgramIndex& index, const Step& step) { return index.tensors[step.out[0]]; }

/// Whether the step has so many inputs and blobs, and one output.
bool has(const Step& step, size_t inputs, size_t blobs);
/// Product of sizes, or false.
bool product(std::initializer_list<size_t> factors, size_t* out);
/// Whether a tensor has as many elements as a shape.
bool holds(const TensorDef& tensor, std::initializer_list<size_t> shape);
template <size_t N>
bool holds(const TensorDef& tensor, const std::array<size_t, N>& shape) {
  size_t elements = 1;
  for (const size_t side : shape) {
    if (!checked_mul(elements, side, &elements)) return false;
  }
  return elements_of(tensor) == elements;
}
/// Whether a blob has `bytes` as steps read it, rounded up as blobs are.
bool blob_is(const ProgramIndex& index, const Step& step, size_t i, size_t bytes);
/// A clamp around the zero point that stays inside the 8-bit range.
bool clamp_inside(float lo, float hi, const QuantParams& q);
bool zero_point_inside(int64_t zero_point, Sign sign);

template <typename Arguments>
void each_of_window(Arguments& a, Window& w) {
  a.size("batch", w.batch, 1);
  a.size("in_h", w.in_h, 1);
  a.size("in_w", w.in_w, 1);
  a.size("out_h", w.out_h, 1);
  a.size("out_w", w.out_w, 1);
  a.size("kernel_h", w.kernel_h, 1);
  a.size("kernel_w", w.kernel_w, 1);
  a.size("stride_h", w.stride_h, 1);
  a.size("stride_w", w.stride_w, 1);
  a.size("dilation_h", w.dilation_h, 1);
  a.size("dilation_w", w.dilation_w, 1);
  a.size("pad_top", w.pad_top);
  a.size("pad_left", w.pad_left);
}

template <typename Arguments>
void each_of_window(Arguments& a, Window3& w) {
  a.size("batch", w.batch, 1);
  a.sizes("in", w.in);
  a.sizes("out", w.out);
  a.sizes("kernel", w.kernel);
  a.sizes("stride", w.stride);
  a.sizes("dilation", w.dilation);
  a.sizes("pad", w.pad);
}

/// An axis of a tensor: how long it is, and elements from one to the next.
struct Axis {
  size_t size;
  int64_t step;
};
/// Whether steps lead from the tensor's first element nowhere outside of it.
bool stays_inside(const TensorDef& tensor, std::initializer_list<Axis> axes);
/// Whether the axes, in some order, are those of the whole tensor, each element once.
bool is_whole(const TensorDef& tensor, std::initializer_list<Axis> axes);

/// Any window may lie in the padding, of which there is a bounded amount at each end, and no coordinate of a tap can
/// wrap around.
bool window_fits(const Window& w);
bool window_fits(const Window3& w);
/// The same for each axis by itself: any number of taps together, as long as they lie in the image.
bool axes_fit(const Window3& w);
/// Whether every output pixel of a pooling sees a pixel of the image.
bool window_covers(const Window& w);
bool window_covers(const Window3& w);

}  // namespace ek
