// One quantized layer in C++: float rows in, y = relu(x @ w + bias) out.
#include <edgekern/edgekern.h>

#include <cmath>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <vector>

namespace {

const ek_api* api() {
  static const ek_api* const table = edgekern_get_api(EDGEKERN_ABI_VERSION);
  if (table == nullptr) throw std::runtime_error("this libedgekern speaks another ABI version");
  return table;
}

void check(ek_status status) {
  if (status != EK_OK) throw std::runtime_error(api()->error_message());
}

struct FreePacked {
  void operator()(ek_packed* packed) const { api()->free_packed(packed); }
};
using Packed = std::unique_ptr<ek_packed, FreePacked>;

Packed pack(std::size_t k, std::size_t n, const std::vector<std::int8_t>& w) {
  ek_packed* packed = nullptr;
  check(api()->pack_b(k, n, w.data(), static_cast<std::ptrdiff_t>(n), 1, &packed));
  return Packed(packed);
}

}  // namespace

int main() try {
  constexpr std::size_t m = 3, k = 100, n = 20;
  constexpr float x_scale = 0.05f, w_scale = 0.01f;
  std::vector<float> x(m * k), y(m * n);
  std::vector<std::int8_t> w(k * n);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(static_cast<float>(i));
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<std::int8_t>(static_cast<int>(i * 37 % 255) - 127);
  const std::vector<float> column_scale(n, x_scale * w_scale), bias(n, 0.125f);

  const Packed packed = pack(k, n, w);
  std::vector<std::uint8_t> q(x.size());
  check(api()->quantize(x.data(), x.size(), x_scale, 128, EK_U8, q.data()));
  const ek_gemm gemm = {m, q.data(), k, EK_U8, 128, packed.get(), 0};
  const ek_epilogue_f32 relu = {nullptr, column_scale.data(), bias.data(), 0.0f, INFINITY};
  check(api()->gemm_f32(&gemm, &relu, y.data(), n * sizeof(float)));

  // Quantizing moves an element of x by at most half a step, so y by at most this.
  const double bound = k * 0.5 * x_scale * 127 * w_scale + 1e-3;
  double worst = 0;
  for (std::size_t i = 0; i < m; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      double sum = 0.125;
      for (std::size_t d = 0; d < k; ++d) sum += double{x[i * k + d]} * w[d * n + j] * double{w_scale};
      worst = std::fmax(worst, std::fabs(std::fmax(sum, 0.0) - double{y[i * n + j]}));
    }
  }
  const char* isa = nullptr;
  check(api()->isa(&isa));
  std::printf("edgekern %s on %s: off by %.3f at most, allowed %.3f\n", api()->version(), isa, worst, bound);
  return worst <= bound && worst > 0 ? 0 : 1;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
