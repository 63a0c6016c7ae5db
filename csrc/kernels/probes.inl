// Probes: what the dot product and the loads of this ISA can do at most. The bench divides by them.

namespace ek {
namespace {

/// Independent chains, enough to hide the latency, few enough to stay in registers.
#if defined(__AVX512F__)
constexpr int kChains = 24;
#else
constexpr int kChains = 4;
#endif

uint64_t dot_burst(size_t iterations) {
  int8_t bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<int8_t>(i);
  const Line w = load_line(bytes);
  const Act x = load_act(reinterpret_cast<const uint8_t*>(bytes));
  I32 acc[kChains];
  unroll<kChains>([&](auto i) EK_LAMBDA { acc[i.value] = set1_i32(i.value); });
  for (size_t it = 0; it < iterations; ++it) {
    unroll<kChains>([&](auto i) EK_LAMBDA { acc[i.value] = dot(acc[i.value], x, w); });
  }
  I32 sum = set1_i32(0);
  unroll<kChains>([&](auto i) EK_LAMBDA { sum = add_i32(sum, acc[i.value]); });
  int32_t lanes[kStrip];
  store_i32(lanes, sum);
  volatile int32_t sink = lanes[0];  // keeps the loop
  (void)sink;
  return static_cast<uint64_t>(iterations) * kChains * 64;
}

uint64_t read_stream(const uint8_t* x, size_t n) {
  constexpr size_t kStep = 512;
  I32 acc[8];
  unroll<8>([&](auto i) EK_LAMBDA { acc[i.value] = set1_i32(0); });
  for (size_t at = 0; at + kStep <= n; at += kStep) {
    __builtin_prefetch(x + at + 4096);
    unroll<8>([&](auto i) EK_LAMBDA {
      acc[i.value] = add_i32(acc[i.value], load_i32(reinterpret_cast<const int32_t*>(x + at + i.value * 64)));
    });
  }
  int32_t lanes[kStrip];
  unroll<7>([&](auto i) EK_LAMBDA { acc[0] = add_i32(acc[0], acc[i.value + 1]); });
  store_i32(lanes, acc[0]);
  uint64_t sum = 0;
  for (const int32_t lane : lanes) sum += static_cast<uint32_t>(lane);
  return sum;
}

}  // namespace
}  // namespace ek
