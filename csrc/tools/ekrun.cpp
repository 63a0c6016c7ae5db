// ekrun MODEL.ekm INPUT.npy ... [-o OUT.npy ...]: runs a compiled model without Python, over the C table.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include "edgekern/edge_infer.hpp"
#include "tools/npy.h"

namespace {

constexpr char kUsage[] =
    "usage: ekrun MODEL.ekm INPUT.npy ... [-o OUT.npy ...] [--repeat N] [--threads N] [--mode NAME] [--profile] "
    "[--lazy]\n"
    "  INPUT.npy  an array for each input of the model, in its order\n"
    "  -o         a file for each output, in the model's order; outputs beyond are printed only\n"
    "  --repeat   runs it so often, and prints the shortest and the middle one\n"
    "  --threads  of a run; as many as CPUs are allowed where it is not given\n"
    "  --mode     one of the model's precisions\n"
    "  --profile  what each step took, in one more run\n"
    "  --lazy     compares no hashes of weights\n";

/// A wrong command line.
struct Usage : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string model, mode;
  std::vector<std::string> inputs, outputs;
  int repeat = 1, threads = 0;
  bool profile = false, lazy = false;
};

int number_of(const std::string& option, const std::string& text) {
  if (text.empty() || text.size() > 6 || text.find_first_not_of("0123456789") != std::string::npos || text == "0") {
    throw Usage(option + " must be a whole number from 1 to 999999, got '" + text + "'");
  }
  return std::atoi(text.c_str());
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto value = [&] {
      if (++i == argc) throw Usage(word + " wants a value");
      return std::string(argv[i]);
    };
    if (word == "-o") {
      options.outputs.push_back(value());
    } else if (word == "--repeat") {
      options.repeat = number_of(word, value());
    } else if (word == "--threads") {
      options.threads = number_of(word, value());
    } else if (word == "--mode") {
      options.mode = value();
    } else if (word == "--profile") {
      options.profile = true;
    } else if (word == "--lazy") {
      options.lazy = true;
    } else if (word.size() > 1 && word[0] == '-') {
      throw Usage("there is no option " + word);
    } else if (options.model.empty()) {
      options.model = word;
    } else {
      options.inputs.push_back(word);
    }
  }
  if (options.model.empty()) throw Usage("MODEL.ekm is missing");
  return options;
}

const char* npy_type(ek_type type) {
  constexpr const char* kTypes[] = {"|u1", "|i1", "<i4", "<f4", "<i8", "|b1", "<f8", "<f2"};
  if (type < EK_U8 || type > EK_F16)
    throw std::runtime_error("bfloat16 has no .npy type; compile the model with others");
  return kTypes[type];
}

std::string told(const edgekern::Tensor& tensor) {
  return "'" + tensor.name + "' " + npy_type(tensor.type) + npy::shape_text(tensor.shape);
}

bool fits(const edgekern::Tensor& tensor, const npy::Array& array) {
  return array.shape == tensor.shape && array.type == npy_type(tensor.type);
}

/// The size of the model that the arrays have.
size_t size_of(const edgekern::EdgeInfer& engine, const std::vector<npy::Array>& arrays) {
  const std::vector<edgekern::Tensor>& inputs = engine.Inputs();
  if (arrays.size() != inputs.size()) {
    throw std::runtime_error("the model has " + std::to_string(inputs.size()) + " inputs, and " +
                             std::to_string(arrays.size()) + " files were given");
  }
  for (size_t size = 0; size < engine.NumSizes(); ++size) {
    if (std::equal(arrays.begin(), arrays.end(), engine.Inputs(size).begin(),
                   [](const npy::Array& array, const edgekern::Tensor& tensor) { return fits(tensor, array); })) {
      return size;
    }
  }
  std::string wanted, given;
  for (size_t i = 0; i < arrays.size(); ++i) {
    wanted += " " + told(inputs[i]);
    given += " " + arrays[i].type + npy::shape_text(arrays[i].shape);
  }
  throw std::runtime_error("the model takes" + wanted + ", got" + given +
                           (engine.NumSizes() > 1 ? "; this is the smallest of its sizes" : ""));
}

/// The five largest of the last axis's first row, or its first numbers.
void print_output(const edgekern::Tensor& tensor, const npy::Array& array) {
  std::printf("%s\n", told(tensor).c_str());
  if (tensor.type != EK_F32 || tensor.shape.empty()) return;
  const auto* const values = reinterpret_cast<const float*>(array.bytes.data());
  const auto count = static_cast<size_t>(tensor.shape.back());
  std::vector<size_t> order;
  for (size_t i = 0; i < std::min(count, tensor.size); ++i) order.push_back(i);
  const auto best = order.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(5, order.size()));
  std::partial_sort(order.begin(), best, order.end(), [&](size_t a, size_t b) { return values[a] > values[b]; });
  for (auto i = order.begin(); i != best; ++i) std::printf("  %6zu  %g\n", *i, double{values[*i]});
}

void print_times(std::vector<double> ms, double opened_ms) {
  std::sort(ms.begin(), ms.end());
  std::printf("opened in %.3f ms; %zu runs: shortest %.3f ms, middle %.3f ms\n", opened_ms, ms.size(), ms.front(),
              ms[ms.size() / 2]);
}

void print_profile(const std::vector<edgekern::StepTime>& steps) {
  uint64_t total = 0;
  for (const edgekern::StepTime& step : steps) total += step.nanoseconds;
  std::printf("%12s  %6s  %-18s %-12s %s\n", "ns", "share", "kind", "path", "step");
  for (const edgekern::StepTime& step : steps) {
    const double share = total == 0 ? 0 : 100 * static_cast<double>(step.nanoseconds) / static_cast<double>(total);
    std::printf("%12llu  %5.1f%%  %-18s %-12s %s (%s)\n", static_cast<unsigned long long>(step.nanoseconds), share,
                step.kind.c_str(), step.path.c_str(), step.name.c_str(), step.op.c_str());
  }
}

int run(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto ms_since = [](Clock::time_point begin) {
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  };
  const auto begin = Clock::now();
  edgekern::EdgeInfer engine(options.model, options.threads, options.lazy ? EK_VERIFY_LAZY : EK_VERIFY_FULL);
  const double opened_ms = ms_since(begin);
  if (!options.mode.empty()) engine.SetMode(options.mode);
  std::vector<npy::Array> given, results;
  for (const std::string& path : options.inputs) given.push_back(npy::read(path));
  const size_t size = size_of(engine, given);
  const std::vector<edgekern::Tensor>& tensors = engine.Outputs(size);
  if (options.outputs.size() > tensors.size()) {
    throw std::runtime_error("-o was given " + std::to_string(options.outputs.size()) + " times, and the model has " +
                             std::to_string(tensors.size()) + " outputs");
  }
  std::vector<ek_input> inputs;
  std::vector<ek_output> outputs;
  for (const npy::Array& array : given) inputs.push_back({array.bytes.data(), array.bytes.size()});
  for (const edgekern::Tensor& tensor : tensors) {
    results.push_back({npy_type(tensor.type), tensor.shape, std::vector<uint8_t>(tensor.bytes)});
  }
  for (npy::Array& result : results) outputs.push_back({result.bytes.data(), result.bytes.size()});
  std::vector<double> ms;
  for (int i = 0; i < options.repeat; ++i) {
    const auto started = Clock::now();
    engine.Run(inputs, outputs, size);
    ms.push_back(ms_since(started));
  }
  print_times(ms, opened_ms);
  for (size_t i = 0; i < results.size(); ++i) print_output(tensors[i], results[i]);
  if (options.profile) print_profile(engine.Profile(inputs, outputs, size));
  for (size_t i = 0; i < options.outputs.size(); ++i) npy::write(options.outputs[i], results[i]);
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc == 2 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0)) {
    std::fputs(kUsage, stdout);
    return 0;
  }
  return run(parse(argc, argv));
} catch (const Usage& error) {
  std::fprintf(stderr, "ekrun: %s\n%s", error.what(), kUsage);
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "ekrun: %s\n", error.what());
  return 1;
}
