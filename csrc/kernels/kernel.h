// How a kernel table holds its pointers: one table an ISA, or, in a build for one ISA, none at all. There the pointers
// belong to the trade (static), each by itself, and a linker that drops what nobody names drops the kernels, too.
#pragma once

#ifdef EK_ONE_ISA
#define EK_KERNEL static
#else
#define EK_KERNEL
#endif
