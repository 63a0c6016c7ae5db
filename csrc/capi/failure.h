// How the C ABI says no: a status, and a sentence that the thread keeps. Nothing is thrown across it.
#pragma once

#include <exception>
#include <new>

#include "base/memory_limit.h"
#include "base/status.h"
#include "edgekern/edgekern.h"
#include "kernels/kernels.h"

namespace ek {

/// Keeps the sentence for error_message() and returns `code`.
[[gnu::format(printf, 2, 3)]] ek_status fail(ek_status code, const char* format, ...) noexcept;
const char* last_failure() noexcept;
/// The same for what the core says.
ek_status status_of(const char* function, const Status& status) noexcept;
/// The instruction set in use with `threads`, of which 0 is the setting.
ek_status runtime_of(const char* function, int32_t threads, Runtime* rt) noexcept;

/// Runs `body`, which returns an ek_status; whatever it throws becomes one.
template <typename Body>
ek_status no_throw(const char* function, Body&& body) noexcept {
  try {
    return body();
  } catch (const NoMemory& error) {
    return fail(EK_ERROR_MEMORY, "%s: %s", function, error.what());
  } catch (const std::bad_alloc&) {
    return fail(EK_ERROR_MEMORY, "%s: out of memory", function);
  } catch (const std::exception& error) {
    return fail(EK_ERROR_INTERNAL, "%s: %s", function, error.what());
  } catch (...) {
    return fail(EK_ERROR_INTERNAL, "%s: an unknown exception", function);
  }
}

}  // namespace ek
