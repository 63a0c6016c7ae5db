// From Status to the exception classes of edgekern.errors.
#pragma once

#include <new>

#include "base/status.h"

namespace ek {

/// Raises the class that belongs to the status' code; returns when it is ok. Needs the GIL.
void throw_if_error(const Status& status);

/// Sets MemoryBudgetError, with the size where it is known. Needs the GIL.
void set_no_memory(const std::bad_alloc& error);

}  // namespace ek
