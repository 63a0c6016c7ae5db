// check_model MODEL.ekm CYCLES STRIDE: what a program sees that opens a model often, and one that somebody has damaged.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <edgekern/edge_infer.hpp>
#include <exception>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

/// Bytes of memory that the system holds for this process.
long resident() {
  long all = 0, here = 0;
  std::ifstream("/proc/self/statm") >> all >> here;
  return here * 4096;
}

/// Opens the bytes with each stride-th one changed; prints how many, and how many were not refused as damaged.
void flip(std::vector<char> file, std::size_t stride) {
  int flipped = 0, wrong = 0;
  for (std::size_t at = 0; at < file.size(); at += stride, ++flipped) {
    file[at] = static_cast<char>(file[at] ^ 1 << at % 8);
    try {
      edgekern::EdgeInfer::FromBytes(file.data(), file.size(), 1);
      ++wrong;
    } catch (const edgekern::Error& error) {
      wrong += error.status() != EK_ERROR_CORRUPT;
    }
    file[at] = static_cast<char>(file[at] ^ 1 << at % 8);
  }
  std::printf("flipped %d accepted %d\n", flipped, wrong);
}

/// Opens, runs and closes; bytes that the process has grown by since the first tenth.
long grown(const char* path, int cycles) {
  long before = 0;
  for (int i = 0; i < cycles; ++i) {
    if (i == cycles / 10) before = resident();
    edgekern::EdgeInfer engine(path, 1, i % 2 == 0 ? EK_VERIFY_FULL : EK_VERIFY_LAZY);
    std::vector<float> input(engine.InputSize(), 0.5f), output;
    engine.Infer(input, output);
    edgekern::EdgeInfer other = engine.Clone();
    other.Infer(input, output);
  }
  return resident() - before;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 4 || std::atoi(argv[3]) < 1) return 2;
  std::ifstream file(argv[1], std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  flip(bytes, static_cast<std::size_t>(std::atoi(argv[3])));
  const int cycles = std::atoi(argv[2]);
  std::printf("cycles %d grown %ld\n", cycles, grown(argv[1], cycles));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
