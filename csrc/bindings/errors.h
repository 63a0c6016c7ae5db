// From Status to the exception classes of edgekern.errors.
#pragma once

#include "base/status.h"

namespace ek {

/// Raises the class that belongs to the status' code; returns when it is ok. Needs the GIL.
void throw_if_error(const Status& status);

}  // namespace ek
