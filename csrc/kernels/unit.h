// A unit is one group of kernel bodies. CMakeLists.txt compiles every unit_*.cpp once per ISA, with that ISA's flags,
// EK_ISA its name and EK_SIMD_HEADER its vectors; each fills its part of the ISA's table.
#pragma once

#include EK_SIMD_HEADER

#define EK_JOIN3(a, b, c) a##_##b##_##c
#define EK_JOIN(a, b, c) EK_JOIN3(a, b, c)
#define EK_FILL(unit) EK_JOIN(fill, unit, EK_ISA)
/// For the lists of the trades' headers: the member of the table is this unit's body of that name.
#define EK_SET(name) table->name = name;
