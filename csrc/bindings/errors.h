// From Status to the exception classes of edgekern.errors.
#pragma once

#include <new>
#include <utility>

#include "base/status.h"

namespace ek {

/// A status that is thrown where the GIL is not held; at the border it becomes what throw_if_error() raises.
struct Refusal {
  explicit Refusal(Status s) : status(std::move(s)) {}
  Status status;
};

/// Raises the class that belongs to the status' code; returns when it is ok. Needs the GIL.
void throw_if_error(const Status& status);

/// Sets MemoryBudgetError, with the size where it is known. Needs the GIL.
void set_no_memory(const std::bad_alloc& error);

}  // namespace ek
