// Counts the allocations of this process, those of the core included; test_session.cpp has the counter.
#pragma once

#include <cstddef>

namespace ek::test {

/// So far; always 0 where a sanitizer has its own allocator.
size_t allocations();

}  // namespace ek::test
