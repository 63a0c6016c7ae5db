// Float rows, requantized sums, entropy thresholds and tile plans over the C table, against the slow way and the core.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "calibration/entropy.h"
#include "edgekern/edgekern.h"
#include "gemm/tile_plan.h"
#include "reference.h"

using namespace ek::test;

namespace {

const ek_api& api() { return *edgekern_get_api(EDGEKERN_ABI_VERSION); }

bool refused(ek_status status, ek_status wanted, const std::string& words) {
  return status == wanted && std::string(api().error_message()).find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("float rows times packed weights equal the slow way, and wrong rows are refused") {
  for (const size_t m : {size_t{1}, size_t{5}}) {
    for (const size_t n : {size_t{3}, size_t{70}}) {
      const size_t k = 37, ldx = k + 2, ldy = n + 1;
      const std::vector<int8_t> b = random_weights(k * n);
      ek_packed* packed = nullptr;
      REQUIRE(api().pack_b(k, n, b.data(), static_cast<ptrdiff_t>(n), 1, &packed) == EK_OK);
      std::vector<float> x(m * ldx), scale(n), bias(n), y(m * ldy, -7.0f);
      for (float& v : x) v = uniform(-3.0f, 3.0f);
      for (float& v : scale) v = uniform(0.001f, 0.02f);
      for (float& v : bias) v = uniform(-1.0f, 1.0f);
      const ek_linear linear{m, x.data(), ldx * 4, packed, scale.data(), bias.data(), -2.0f, 2.5f, 2};
      REQUIRE(api().linear_f32(&linear, y.data(), ldy * 4) == EK_OK);
      size_t wrong = 0;
      for (size_t i = 0; i < m; ++i) {
        float peak = 0;
        for (size_t d = 0; d < k; ++d) peak = std::fmax(peak, std::fabs(x[i * ldx + d]));
        const float row_scale = peak / 127.0f;
        for (size_t j = 0; j < n; ++j) {
          double sum = 0;  // of the numbers themselves: quantizing moves each by half a step at most
          for (size_t d = 0; d < k; ++d) sum += double{x[i * ldx + d]} * b[d * n + j] * double{scale[j]};
          const double real = std::fmin(std::fmax(sum + double{bias[j]}, -2.0), 2.5);
          const double bound = 0.51 * double{row_scale} * 128 * double{scale[j]} * static_cast<double>(k) + 1e-4;
          wrong += !(std::fabs(real - double{y[i * ldy + j]}) <= bound);
        }
        wrong += y[i * ldy + n] != -7.0f;
      }
      CHECK(wrong == 0);
      ek_linear other = linear;
      other.ldx = (k - 1) * 4;
      CHECK(refused(api().linear_f32(&other, y.data(), ldy * 4), EK_ERROR_VALUE, "ldx is "));
      CHECK(refused(api().linear_f32(&linear, y.data(), n * 4 - 4), EK_ERROR_OUT, "ldy is "));
      CHECK(refused(api().linear_f32(&linear, x.data(), ldy * 4), EK_ERROR_OUT, "y overlaps x"));
      other = linear, other.lo = 3.0f;
      CHECK(refused(api().linear_f32(&other, y.data(), ldy * 4), EK_ERROR_VALUE, "lo must be"));
      other = linear, other.x = nullptr;
      CHECK(refused(api().linear_f32(&other, y.data(), ldy * 4), EK_ERROR_NULL, "x, column_scale or y is null"));
      CHECK(refused(api().linear_f32(nullptr, y.data(), ldy * 4), EK_ERROR_NULL, "linear or its b is null"));
      api().free_packed(packed);
    }
  }
}

TEST_CASE("sums become 8 bits from C") {
  std::vector<int32_t> acc(77);
  for (int32_t& a : acc) a = uniform(-20000, 20000);
  for (const ek_type type : {EK_U8, EK_S8}) {
    const int32_t lowest = type == EK_U8 ? 0 : -128, zero = lowest + 100;
    Bytes y(acc.size());
    REQUIRE(api().requantize(acc.data(), acc.size(), 0.0137f, zero, type, y.data()) == EK_OK);
    for (size_t i = 0; i < acc.size(); ++i) {
      const int32_t r = rne(static_cast<float>(acc[i]) * 0.0137f) + zero;
      CHECK(y[i] == static_cast<uint8_t>(std::min(std::max(r, lowest), lowest + 255)));
    }
    CHECK(refused(api().requantize(acc.data(), 5, 1.0f, lowest - 1, type, y.data()), EK_ERROR_VALUE, "zero_point"));
    CHECK(refused(api().requantize(acc.data(), 5, NAN, zero, type, y.data()), EK_ERROR_VALUE, "must be finite"));
    CHECK(refused(api().requantize(acc.data(), 5, 1.0f, zero, type, acc.data()), EK_ERROR_OUT, "y overlaps acc"));
    CHECK(refused(api().requantize(nullptr, 5, 1.0f, zero, type, y.data()), EK_ERROR_NULL, "acc or y is null"));
  }
  CHECK(refused(api().requantize(acc.data(), 5, 1.0f, 0, EK_F32, acc.data()), EK_ERROR_VALUE, "type must be"));
}

TEST_CASE("thresholds and tile plans from C are the core's") {
  std::vector<uint64_t> counts(512);
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = 1000000 / (1 + i * i) + (i > 500 ? 3 : 0);
  size_t kept = 0, blocks = 0;
  double divergence = 0;
  REQUIRE(api().entropy_threshold(counts.data(), counts.size(), 128, &kept, &divergence) == EK_OK);
  const ek::EntropyResult expected = ek::entropy_search(counts.data(), counts.size(), 128);
  CHECK((kept == expected.num_kept && divergence == expected.divergence));
  CHECK(refused(api().entropy_threshold(counts.data(), 5, 6, &kept, nullptr), EK_ERROR_VALUE, "must lie in [1, 5]"));
  CHECK(refused(api().entropy_threshold(nullptr, 5, 5, &kept, nullptr), EK_ERROR_NULL, "counts or num_kept"));
  counts[0] = UINT64_MAX;
  CHECK(refused(api().entropy_threshold(counts.data(), 512, 5, &kept, nullptr), EK_ERROR_VALUE, "below 2^63"));

  std::vector<ek_tile_block> plan(3);
  REQUIRE(api().tile_plan(300, 500, 64, 256, "host", plan.data(), plan.size(), &blocks) == EK_OK);
  const ek::TilePlan own = ek::make_tile_plan(300, 500, 64, 256, *ek::find_device("host"));
  REQUIRE(blocks == own.blocks.size());
  for (size_t i = 0; i < plan.size(); ++i) {
    CHECK((plan[i].row0 == own.blocks[i].row0 && plan[i].col1 == own.blocks[i].col1));
    CHECK((plan[i].unit == static_cast<int32_t>(own.blocks[i].unit) && plan[i].cost_us == own.blocks[i].cost_us));
  }
  CHECK(refused(api().tile_plan(1, 1, 1, 100, "host", nullptr, 0, &blocks), EK_ERROR_VALUE, "multiple of"));
  CHECK(refused(api().tile_plan(1, 1, 1, 256, "toaster", nullptr, 0, &blocks), EK_ERROR_VALUE, "unknown device"));
  CHECK(refused(api().tile_plan(1u << 30, 1u << 30, 1, 256, "host", nullptr, 0, &blocks), EK_ERROR_VALUE, "more than"));
  CHECK(refused(api().tile_plan(1, 1, 1, 256, nullptr, nullptr, 0, &blocks), EK_ERROR_NULL, "device, blocks"));
}
