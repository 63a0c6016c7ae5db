#include "conv/conv_wide.h"

#include <algorithm>

#include "base/checked.h"
#include "conv/source.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Results that a thread finishes at a time.
constexpr size_t kChunk = 16384;

size_t image_bytes(const ConvWideArgs& args) { return args.conv.window.in_h * args.conv.window.in_w * args.conv.in_c; }
/// Groups of channels that lie apart in multipliers and bias: a depthwise convolution has one.
size_t groups_of(const ConvWideArgs& args) { return args.depthwise ? 1 : args.conv.groups; }
size_t padded_out(const ConvWideArgs& args) { return round_up(args.conv.out_c / groups_of(args), kStrip); }
size_t starts_bytes(const ConvWideArgs& args) {
  return round_up(padded_out(args) * groups_of(args) * sizeof(int32_t), kLine);
}

/// The convolution of one image's bytes: int32 results, dense.
ConvArgs exact(const Runtime& rt, const ConvWideArgs& args) {
  ConvArgs one = args.conv;
  one.window.batch = 1;
  one.epilogue = {};
  one.x_q = {1.0f, 0, rt.kernels->native_sign};
  return one;
}

size_t exact_scratch_bytes(const Runtime& rt, const ConvWideArgs& args) {
  const ConvArgs one = exact(rt, args);
  return args.depthwise ? depthwise_scratch_bytes(rt, one) : conv_scratch_bytes(rt, one);
}

/// Both products of an image and where they lie: bytes of the image, products, what a convolution needs.
struct Room {
  size_t products, rest, all;

  Room(const Runtime& rt, const ConvWideArgs& args) {
    const Window& w = args.conv.window;
    products = starts_bytes(args) + 2 * round_up(image_bytes(args), kLine);
    rest = products + 2 * round_up(w.out_h * w.out_w * args.conv.out_c * sizeof(int32_t), kLine);
    all = rest + exact_scratch_bytes(rt, args);
  }
};

/// Pixels [begin, end) of one image, group by group.
void finish(const Runtime& rt, const ConvWideArgs& args, const int32_t* const (&products)[2], size_t image,
            size_t begin, size_t end) {
  const ConvArgs& c = args.conv;
  const size_t group = c.out_c / groups_of(args), pixels = c.window.out_h * c.window.out_w;
  for (size_t g = 0; g < groups_of(args); ++g) {
    Epilogue e = c.epilogue;
    const size_t apart = g * padded_out(args);
    e.multiplier += apart;
    e.bias += apart;
    if (e.addend != nullptr) e.addend += g * group;
    WideRows rows{};
    rows.high = products[0] + begin * c.out_c + g * group;
    rows.low = products[1] + begin * c.out_c + g * group;
    rows.ld = c.out_c;
    rows.rows = end - begin;
    rows.cols = group;
    rows.start = args.start + apart;
    rows.row0 = image * pixels + begin;
    rows.ldc = out_bytes(e, c.out_c);
    rows.c = c.y + rows.row0 * rows.ldc + out_bytes(e, g * group);
    rt.kernels->finish_wide(rows, e);
  }
}

}  // namespace

const char* conv_wide_path(const Runtime& rt, const ConvWideArgs& args) {
  return args.depthwise ? "depthwise" : conv_path(rt, exact(rt, args));
}

std::vector<const char*> conv_wide_choices(const Runtime& rt, const ConvWideArgs& args) {
  return args.depthwise ? std::vector<const char*>() : conv_choices(rt, exact(rt, args));
}

size_t conv_wide_scratch_bytes(const Runtime& rt, const ConvWideArgs& args) { return Room(rt, args).all; }

void conv_wide(const Runtime& rt, const ConvWideArgs& args, uint8_t* scratch) {
  const Room room(rt, args);
  const Window& w = args.conv.window;
  const size_t bytes = image_bytes(args), pixels = w.out_h * w.out_w, results = pixels * args.conv.out_c;
  auto* const zeros = reinterpret_cast<int32_t*>(scratch);
  std::fill_n(zeros, starts_bytes(args) / sizeof(int32_t), 0);
  uint8_t* const parts[2] = {scratch + starts_bytes(args), scratch + starts_bytes(args) + round_up(bytes, kLine)};
  auto* const first = reinterpret_cast<int32_t*>(scratch + room.products);
  const int32_t* const products[2] = {first, first + round_up(results * sizeof(int32_t), kLine) / sizeof(int32_t)};
  ConvArgs one = exact(rt, args);
  one.init = zeros;
  const auto zero = static_cast<uint32_t>(args.q.from_least());
  const uint8_t flip = rt.kernels->native_sign == Sign::kS8 ? 0x80 : 0;
  for (size_t image = 0; image < w.batch; ++image) {
    split_codes(rt, args.x + image * bytes, bytes, args.q, parts[0], parts[1]);
    for (size_t part = 0; part < 2; ++part) {
      one.x = parts[part];
      one.x_q.zero_point = static_cast<uint8_t>((part == 0 ? zero >> 8 : zero) ^ flip);  // what stands in the padding
      one.y = reinterpret_cast<uint8_t*>(const_cast<int32_t*>(products[part]));
      args.depthwise ? depthwise_conv(rt, one, scratch + room.rest) : conv(rt, one, scratch + room.rest);
    }
    const size_t each = std::max<size_t>(1, kChunk / args.conv.out_c);
    parallel_for(ceil_div(pixels, each), rt.threads, [&](size_t task) {
      finish(rt, args, products, image, task * each, std::min(pixels, (task + 1) * each));
    });
  }
}

}  // namespace ek
