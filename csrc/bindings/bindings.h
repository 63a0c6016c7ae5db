// The parts of _core, one function a file.
#pragma once

#include <pybind11/pybind11.h>

namespace ek {

void bind_cpu(pybind11::module_& m);
void bind_gemm(pybind11::module_& m);
void bind_elementwise(pybind11::module_& m);
void bind_calibration(pybind11::module_& m);
void bind_program(pybind11::module_& m);

}  // namespace ek
