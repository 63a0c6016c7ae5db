// A pool of blocks for NumPy: a block goes back when the last array on it is gone.
#include <memory>
#include <string>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "memory/pool.h"

namespace ek {
namespace {

using Pool = std::shared_ptr<MemoryPool>;

/// "MemoryPool.allocate: " before what the core says.
void refuse(const char* function, const Status& status) {
  if (!status.ok()) throw_if_error({status.code(), std::string(function) + ": " + status.message()});
}

Pool make_pool(size_t bytes, size_t input, size_t output, size_t intermediate) {
  std::unique_ptr<MemoryPool> made;
  refuse("MemoryPool", MemoryPool::create(bytes, {input, output, intermediate}, &made));
  return made;
}

struct Held {
  Pool pool;
  uint8_t* block;
};

py::array allocate(const Pool& pool, int kind, size_t bytes) {
  uint8_t* block = nullptr;
  refuse("MemoryPool.allocate", pool->allocate(static_cast<PoolKind>(kind), bytes, &block));
  auto held = std::make_unique<Held>(Held{pool, block});
  const py::capsule owner(held.get(), [](void* p) {
    const std::unique_ptr<Held> gone(static_cast<Held*>(p));
    (void)gone->pool->release(gone->block);  // a torn pool keeps it; nobody is there to be told
  });
  held.release();
  return py::array_t<uint8_t>({static_cast<py::ssize_t>(bytes)}, {py::ssize_t{1}}, block, owner);
}

py::dict statistics(const Pool& pool) {
  PoolStatistics found;
  refuse("MemoryPool.statistics", pool->statistics(&found));
  py::dict used, peak;
  for (size_t i = 0; i < kNumPoolKinds; ++i) {
    used[kPoolKindNames[i]] = found.used_by_kind[i];
    peak[kPoolKindNames[i]] = found.peak_by_kind[i];
  }
  py::dict all;
  all["total_bytes"] = found.bytes, all["used_bytes"] = found.used, all["peak_bytes"] = found.peak;
  all["padding_bytes"] = found.padding, all["largest_free_bytes"] = found.largest_free;
  all["blocks"] = found.blocks, all["holes"] = found.holes;
  all["used_by_kind"] = used, all["peak_by_kind"] = peak;
  return all;
}

}  // namespace

void bind_pool(py::module_& m) {
  py::class_<MemoryPool, Pool>(m, "MemoryPool", py::is_final(), plain_type())
      .def(py::init(&make_pool), py::arg("total"), py::arg("input"), py::arg("output"), py::arg("intermediate"))
      .def("allocate", &allocate, py::arg("kind"), py::arg("bytes"))
      .def("statistics", &statistics);
}

}  // namespace ek
