// An index as bytes: decode, encode, validate, run. No hash stands in the way here: open_container() has checked them
// by then. The mutator changes fields, so that most inputs decode.
#include <cstring>
#include <limits>
#include <random>

#include "common.h"

namespace {

using namespace ek;

template <typename T>
void change(std::mt19937& random, std::vector<T>& list) {
  if (list.empty()) return;
  T& item = list[random() % list.size()];
  switch (random() % 4) {
    case 0:
      list.erase(list.begin() + static_cast<std::ptrdiff_t>(random() % list.size()));
      break;
    case 1:
      list.push_back(item);
      break;
    case 2:
      std::swap(item, list[random() % list.size()]);
      break;
    default:
      if constexpr (std::is_floating_point_v<T>) {
        constexpr T kValues[] = {
            0, 1, -1, 255, T(-1e30), std::numeric_limits<T>::infinity(), std::numeric_limits<T>::quiet_NaN()};
        item = random() % 2 == 0 ? kValues[random() % std::size(kValues)] : item + 1;
      } else if constexpr (std::is_integral_v<T>) {
        constexpr int64_t kValues[] = {0, 1, 2, 3, 16, 63, 64, 127, 128, 255, -1, INT32_MAX, INT64_MAX, INT64_MIN};
        item = static_cast<T>(random() % 2 == 0 ? kValues[random() % std::size(kValues)]
                                                : static_cast<int64_t>(static_cast<uint64_t>(item) + random() % 5 - 2));
      }
  }
}

void change(std::mt19937& random, ProgramIndex& p) {
  Step* const step = p.steps.empty() ? nullptr : &p.steps[random() % p.steps.size()];
  TensorDef* const tensor = p.tensors.empty() ? nullptr : &p.tensors[random() % p.tensors.size()];
  switch (random() % 14) {
    case 0:
      return change(random, p.tensors);
    case 1:
      return change(random, p.steps);
    case 2:
      p.segments = {{0, static_cast<uint32_t>(p.steps.size())}};
      return;
    case 3:
      return change(random, p.inputs);
    case 4:
      return change(random, p.outputs);
    case 5:
      return change(random, p.blobs);
    case 6:
      p.arena_bytes += 64 * (random() % 64);
      return;
    case 7:
      if (step != nullptr) step->kind = step_types()[random() % step_types().size()].kind;
      return;
    case 8:
      if (step != nullptr) change(random, random() % 2 == 0 ? step->in : step->blobs);
      return;
    case 9:
      if (step != nullptr) change(random, step->floats);
      return;
    case 10:
      if (tensor != nullptr) change(random, tensor->shape);
      return;
    case 11:
      if (tensor != nullptr) tensor->dtype = static_cast<DType>(random() % 7);
      return;
    case 12:
      if (tensor != nullptr) tensor->zero_point = static_cast<int32_t>(random() % 300) - 150;
      return;
    default:
      if (step != nullptr) change(random, step->ints);
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  std::mt19937 random(seed);
  ProgramIndex index;
  if (random() % 8 == 0 || !decode(data, size, &index).ok()) return LLVMFuzzerMutate(data, size, max_size);
  for (uint32_t i = 0; i <= random() % 3; ++i) change(random, index);
  const std::string bytes = encode(index);
  if (bytes.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, bytes.data(), bytes.size());
  return bytes.size();
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  ProgramIndex index;
  if (!decode(bytes, size, &index).ok()) return 0;
  const std::string again = encode(index);
  fuzz::require(again.size() == size && std::memcmp(again.data(), bytes, size) == 0, "encode undoes decode");
  const AlignedBuffer data = fuzz::any_data(index);
  fuzz::run(index, data.data(), data.size());
  return 0;
}
