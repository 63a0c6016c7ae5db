// The memory planner.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/bindings.h"
#include "bindings/gil.h"
#include "memory/planner.h"

namespace ek {
namespace {

std::vector<Buffer> buffers_of(const char* function, const std::vector<int64_t>& lower,
                               const std::vector<int64_t>& upper, const std::vector<uint64_t>& size) {
  if (lower.size() != upper.size() || lower.size() != size.size()) {
    fail(Code::kValue, std::string(function) + ": lower, upper and size must have the same length, got " +
                           std::to_string(lower.size()) + ", " + std::to_string(upper.size()) + " and " +
                           std::to_string(size.size()));
  }
  std::vector<Buffer> buffers;
  for (size_t i = 0; i < size.size(); ++i) buffers.push_back({lower[i], upper[i], size[i]});
  return buffers;
}

MemoryPlan plan(const std::vector<int64_t>& lower, const std::vector<int64_t>& upper, const std::vector<uint64_t>& size,
                uint64_t alignment, uint64_t most_nodes, std::optional<double> seconds) {
  SearchLimits limits;
  limits.most_nodes = most_nodes;
  if (seconds) limits.seconds = *seconds;
  const std::vector<Buffer> buffers = buffers_of("plan_memory", lower, upper, size);
  MemoryPlan made;
  Status status;
  {
    const WithoutGil released;
    status = plan_memory(buffers, alignment, &made, limits);
  }
  throw_if_error(status);
  return made;
}

}  // namespace

void bind_memory(py::module_& m) {
  py::class_<MemoryPlan>(m, "MemoryPlan", py::is_final(), plain_type())
      .def(py::init([](std::vector<uint64_t> offsets, uint64_t peak, uint64_t lower_bound, std::string method) {
             return MemoryPlan{std::move(offsets), peak, lower_bound, std::move(method), peak, lower_bound, 0};
           }),
           py::kw_only(), py::arg("offsets"), py::arg("peak"), py::arg("lower_bound"), py::arg("method"))
      .def_readonly("offsets", &MemoryPlan::offsets)
      .def_readonly("peak", &MemoryPlan::peak)
      .def_readonly("lower_bound", &MemoryPlan::lower_bound)
      .def_readonly("method", &MemoryPlan::method)
      .def_readonly("greedy_peak", &MemoryPlan::greedy_peak)
      .def_readonly("least_peak", &MemoryPlan::least_peak)
      .def_readonly("nodes", &MemoryPlan::nodes)
      .def_property_readonly("proved", &MemoryPlan::proved);
  m.def("plan_memory", &plan, py::arg("lower"), py::arg("upper"), py::arg("size"), py::arg("alignment") = 64,
        py::kw_only(), py::arg("most_nodes") = SearchLimits{}.most_nodes, py::arg("seconds") = py::none());
  m.def(
      "check_plan",
      [](const std::vector<int64_t>& lower, const std::vector<int64_t>& upper, const std::vector<uint64_t>& size,
         const std::vector<uint64_t>& offsets, uint64_t alignment, uint64_t capacity) {
        throw_if_error(check_plan(buffers_of("check_plan", lower, upper, size), offsets, alignment, capacity));
      },
      py::arg("lower"), py::arg("upper"), py::arg("size"), py::arg("offsets"), py::arg("alignment"),
      py::arg("capacity"));
}

}  // namespace ek
