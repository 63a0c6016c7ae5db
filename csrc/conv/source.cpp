#include "conv/source.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

bool needs_flip(const Runtime& rt, const ConvArgs& args) { return args.x_q.sign != rt.kernels->native_sign; }

size_t input_bytes(const ConvArgs& args) { return args.window.batch * args.window.in_h * args.window.in_w * args.in_c; }

}  // namespace

size_t source_bytes(const Runtime& rt, const ConvArgs& args, size_t zeros) {
  return round_up(zeros, kLine) + (needs_flip(rt, args) ? round_up(input_bytes(args), kLine) : 0);
}

Source make_source(const Runtime& rt, const ConvArgs& args, size_t zeros, uint8_t* scratch) {
  const bool flip = needs_flip(rt, args);
  const size_t bytes = input_bytes(args);
  const int32_t zero_point = args.x_q.zero_point;
  std::memset(scratch, static_cast<uint8_t>(zero_point) ^ (flip ? 0x80 : 0), zeros);
  uint8_t* rest = scratch + round_up(zeros, kLine);
  if (!flip) return {args.x, bytes, scratch, rest};
  constexpr size_t kChunk = 65536;
  parallel_for(ceil_div(bytes, kChunk), rt.threads, [&](size_t task) {
    const size_t at = task * kChunk;
    rt.kernels->flip_sign(args.x + at, std::min(kChunk, bytes - at), rest + at);
  });
  return {rest, bytes, scratch, rest + round_up(bytes, kLine)};
}

Tasks split_work(int threads, size_t per_thread, size_t units, size_t granule) {
  const size_t wanted = threads <= 1 ? 1 : per_thread * static_cast<size_t>(threads);
  const size_t per_task = std::max(granule, round_up(ceil_div(units, wanted), granule));
  return {ceil_div(units, per_task), per_task};
}

double conv_macs(const ConvArgs& args) {
  return static_cast<double>(args.window.pixels()) * static_cast<double>(args.window.taps()) *
         static_cast<double>(args.in_c / args.groups) * static_cast<double>(args.out_c);
}

}  // namespace ek
