// Writes the seeds of tests/fuzz/corpus: make_seeds <corpus>. They are small programs and caches, as the core writes
// them.
#include <filesystem>
#include <fstream>

#include "common.h"
#include "every_kind.h"
#include "kv_specs.h"
#include "small_program.h"

namespace {

using namespace ek;
using ek::test::SmallProgram;

std::string folder;

void write(const char* target, const std::string& name, const std::string& bytes) {
  std::filesystem::create_directories(folder + "/" + target);
  std::ofstream(folder + "/" + target + "/" + name, std::ios::binary) << bytes;
}

void program(const std::string& name, const SmallProgram& p, bool file) {
  const std::string index = encode(p.index);
  write("index", name, index);
  if (!file) return;
  SmallProgram moved = p;  // blobs count from the start of the index, and come after it and its hash
  const size_t start = round_up(index.size() + 32, 64);
  for (BlobDef& b : moved.index.blobs) b.offset += start;
  const AlignedBuffer data = p.data();
  std::string bytes = "\1" + encode(moved.index);
  bytes.resize(1 + start);
  bytes.append(reinterpret_cast<const char*>(data.data()), data.size());
  write("container", name, bytes);
}

}  // namespace

int main(int, char** arguments) {
  folder = arguments[1];
  {
    SmallProgram p;
    const uint32_t x = p.quantize_nchw(p.input({1, 2, 5, 4}), 0.02f, 100, DType::kU8);
    const uint32_t y = p.conv(x, {3, 3, 1, 1});
    p.finish({p.dequantize(p.pool(y, false, 2, 2), true)});
    program("conv", p, true);
  }
  {
    SmallProgram p;
    const uint32_t x = p.quantize_nchw(p.input({1, 3, 4, 4}), 0.02f, 100, DType::kS8);
    const uint32_t y = p.conv(x, {3, 3, 2, 1, 3, true});
    p.finish({p.concat(p.pad(y, 3), p.pad(y, 9))});
    program("depthwise", p, true);
  }
  {
    SmallProgram p;
    const uint32_t x = p.quantize(p.input({1, 6}));
    p.finish({p.gemm(x, 1, {4, 1, 1, 0, 1, false, -1, DType::kF32})});
    program("gemm", p, true);
  }
  {
    SmallProgram p;
    const uint32_t x = p.quantize_nchw(p.input({1, 3, 6, 4}), 0.02f, 100, DType::kU8);
    const uint32_t y = p.lookup(p.slice(x));
    p.finish({p.transpose(p.pool(p.add(y, y), true, 2, 1))});
    program("moves", p, true);
  }
  {
    SmallProgram p;
    p.finish(ek::test::halves(p));
    program("halves", p, true);
  }
  program("every_kind", ek::test::every_kind(), false);
  for (uint8_t which = 0; which < std::size(fuzz::kFormats); ++which) {
    const KvSpec s = fuzz::kv_spec(which);
    std::unique_ptr<RingCache> cache;
    std::vector<uint8_t> state;
    std::vector<float> x(s.kv_heads * s.head_dim);
    if (!RingCache::create(s, &cache).ok()) return 1;
    for (size_t token = 0; token < size_t{3} * (1 + which % 4); ++token) {
      for (float& v : x) v = ek::test::uniform(-1.0f, 1.0f);
      if (!cache->stage(0, 1).ok()) return 1;
      for (size_t layer = 0; layer < s.layers; ++layer) {
        if (!cache->write({&kernels(Isa::kScalar), 1}, 0, layer, x.data(), x.data()).ok()) return 1;
      }
      if (!cache->commit(0, 1).ok()) return 1;
    }
    if (!cache->save(0, "model", &state).ok()) return 1;
    write("kv_state", fuzz::kFormats[which],
          std::string(1, static_cast<char>(which)) + std::string(state.begin(), state.end()));
  }
  return 0;
}
