// What the machine has, and how many threads are used.
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "base/memory_limit.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "cpu/isa.h"
#include "threads/pool.h"

namespace ek {

namespace py = pybind11;

namespace {

Isa isa_by_name(const std::string& name) {
  Isa isa = Isa::kScalar;
  throw_if_error(resolve_isa(name, &isa));
  return isa;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa isa : available_isas()) names.emplace_back(isa_name(isa));
  return names;
}

int package_threads() {
  int threads = 0;
  throw_if_error(told_num_threads(&threads));
  return threads;
}

}  // namespace

void bind_cpu(py::module_& m) {
  m.def("available_isas", &isa_names);
  m.def(
      "resolve_isa", [](const std::string& name) { return std::string(isa_name(isa_by_name(name))); },
      py::arg("name") = "");
  m.def("allowed_cpus", &allowed_cpus);
  m.def("memory_limit", &memory_limit);
  m.def("num_threads", &package_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("num_threads"));
  m.def("rest_workers", &rest_workers);
  m.def("spinning_workers", &spinning_workers);
  m.def("set_worker_patience", &set_worker_patience, py::arg("microseconds"));
}

}  // namespace ek
