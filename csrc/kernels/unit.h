// A unit is one group of kernel bodies. CMakeLists.txt compiles every unit_*.cpp once per ISA, with that ISA's flags,
// EK_ISA its name and EK_SIMD_HEADER its vectors; each fills its part of the ISA's table.
#pragma once

#include EK_SIMD_HEADER

#define EK_JOIN3(a, b, c) a##_##b##_##c
#define EK_JOIN(a, b, c) EK_JOIN3(a, b, c)
#define EK_FILL(unit) EK_JOIN(fill, unit, EK_ISA)

/// EK_TRADE(unit, Trade's struct, its list, what else of the table it sets): the table's pointers of the list's names
/// are this unit's bodies of those names (kernels/kernel.h).
#ifdef EK_ONE_ISA
#define EK_OWN(name) decltype(Trade::name) Trade::name = ek::name;
#define EK_TRADE(unit, trade, list, ...) \
  using Trade = trade;                   \
  list(EK_OWN) void EK_FILL(unit)([[maybe_unused]] trade * table) { __VA_ARGS__ }
#else
#define EK_SET(name) table->name = name;
#define EK_TRADE(unit, trade, list, ...) \
  void EK_FILL(unit)(trade * table) { __VA_ARGS__ list(EK_SET) }
#endif
