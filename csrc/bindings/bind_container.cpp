// An .ekm file's bytes, held to the format.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "hash/sha256.h"
#include "program/container.h"

namespace ek {
namespace {

using ByteArray = py::array_t<uint8_t>;

/// The index, where the data section begins, and the length of the encoded index.
py::tuple open(const ByteArray& data, const std::string& source, bool verify_blobs) {
  require_rank("open_container", "data", data, 1);
  require_contiguous("open_container", "data", data);
  ContainerView view;
  Status status;
  {
    const WithoutGil released;
    status =
        open_container(data.data(), usize(data.size()), source, verify_blobs ? Verify::kFull : Verify::kLazy, &view);
  }
  throw_if_error(status);
  return py::make_tuple(std::move(view.index), view.start, view.index_bytes);
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const Sha256Kernel& kernel : sha256_kernels()) names.emplace_back(kernel.name);
  return names;
}

py::bytes hash(const ByteArray& data, const std::string& name) {
  require_rank("sha256", "data", data, 1);
  require_contiguous("sha256", "data", data);
  for (const Sha256Kernel& kernel : sha256_kernels()) {
    if (!name.empty() && name != kernel.name) continue;
    Sha256 digest;
    {
      const WithoutGil released;
      digest = sha256(data.data(), usize(data.size()), kernel);
    }
    return {reinterpret_cast<const char*>(digest.data()), digest.size()};
  }
  fail(Code::kValue, "sha256: kernel must be one of sha256_kernels(), got '" + name + "'");
}

}  // namespace

void bind_container(py::module_& m) {
  m.def("open_container", &open, py::arg("data").noconvert(), py::arg("source"), py::arg("verify_blobs"));
  m.def("sha256", &hash, py::arg("data").noconvert(), py::arg("kernel") = "");
  m.def("sha256_kernels", &kernel_names);
}

}  // namespace ek
