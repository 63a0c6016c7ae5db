// edge_infer MODEL.ekm PICTURE.jpg, or FRAME.nv12 WIDTHxHEIGHT: the five classes that an image model finds likeliest.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <edgekern/edge_infer.hpp>
#include <exception>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

#include "picture.h"

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

Picture read_picture(const std::string& path, const std::string& size) {
  if (!size.empty()) {
    unsigned width = 0, height = 0;
    if (std::sscanf(size.c_str(), "%ux%u", &width, &height) != 2) throw std::runtime_error("a size is such as 640x480");
    return read_nv12(path, width, height);
  }
#ifdef EDGE_INFER_JPEG
  return read_jpeg(path);
#else
  throw std::runtime_error("this example was built without libjpeg; give it an NV12 frame and its size");
#endif
}

std::vector<double> softmax(const std::vector<float>& logits) {
  const double most = *std::max_element(logits.begin(), logits.end());
  std::vector<double> shares;
  for (const float x : logits) shares.push_back(std::exp(x - most));
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  for (double& x : shares) x /= sum;
  return shares;
}

void print_best(const std::vector<float>& logits) {
  const std::vector<double> shares = softmax(logits);
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto best = order.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(5, order.size()));
  std::partial_sort(order.begin(), best, order.end(),
                    [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  for (auto i = order.begin(); i != best; ++i) std::printf("%5zu  %5.1f%%\n", *i, 100 * shares[*i]);
}

int run(const std::string& model, const std::string& picture, const std::string& size, const char* dump) {
  auto begin = Clock::now();
  edgekern::EdgeInfer engine(model);
  const double opened = ms_since(begin);
  const std::vector<std::int64_t>& shape = engine.GetInputShape();
  if (shape.size() != 4 || shape[1] != 3 || shape[2] != shape[3]) {
    throw std::runtime_error("the model's input must be (1, 3, side, side)");
  }
  begin = Clock::now();
  const std::vector<float> input = prepare(read_picture(picture, size), static_cast<std::size_t>(shape[2]));
  const double prepared = ms_since(begin);
  std::vector<float> logits;
  begin = Clock::now();
  engine.Infer(input, logits);
  const double ran = ms_since(begin);
  std::printf("opened and verified in %.1f ms, picture %.1f ms, first run %.1f ms\n", opened, prepared, ran);
  print_best(logits);
  if (dump != nullptr) {  // the tensors, to compare with another program's
    std::ofstream file(dump, std::ios::binary);
    for (const std::vector<float>* values : {&input, static_cast<const std::vector<float>*>(&logits)}) {
      file.write(reinterpret_cast<const char*>(values->data()),
                 static_cast<std::streamsize>(values->size() * sizeof(float)));
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 && argc != 4) {
    std::fprintf(stderr,
                 "usage: edge_infer MODEL.ekm PICTURE.jpg\n       edge_infer MODEL.ekm FRAME.nv12 WIDTHxHEIGHT\n");
    return 2;
  }
  return run(argv[1], argv[2], argc == 4 ? argv[3] : "", std::getenv("EDGE_INFER_DUMP"));
} catch (const std::exception& error) {
  std::fprintf(stderr, "edge_infer: %s\n", error.what());
  return 1;
}
