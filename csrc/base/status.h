// Status: what can fail below the border (files, plans, sizes), with the sentence the caller will read.
#pragma once

#include <string>
#include <utility>

namespace ek {

enum class Code {
  kOk = 0,
  kType,            // wrong dtype                        -> ArgumentTypeError
  kValue,           // wrong shape, range or combination  -> ArgumentValueError
  kCorrupt,         // bytes of a file that cannot be     -> ArtifactError
  kUnsupportedIsa,  // the CPU lacks what was asked for   -> UnsupportedIsaError
  kNoMemory,        // more than can be had               -> MemoryBudgetError
  kRewind,          // tokens that a cache no longer has  -> KVRewindError
  kForked,          // torn by a fork in another's call   -> ForkError
};

class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}
  bool ok() const { return code_ == Code::kOk; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::kOk;
  std::string message_;
};

}  // namespace ek

/// Returns early with the status of `expr` when it is not ok.
#define EK_RETURN_IF_ERROR(expr)             \
  do {                                       \
    ::ek::Status ek_status_ = (expr);        \
    if (!ek_status_.ok()) return ek_status_; \
  } while (0)

/// Checks, in debug and sanitizer builds, what the border has already promised.
#ifdef EK_DEBUG_CHECKS
#include <cstdio>
#include <cstdlib>
#define EK_ASSERT(cond)                                                          \
  do {                                                                           \
    if (!(cond)) {                                                               \
      std::fprintf(stderr, "%s:%d: EK_ASSERT(%s)\n", __FILE__, __LINE__, #cond); \
      std::abort();                                                              \
    }                                                                            \
  } while (0)
#else
#define EK_ASSERT(cond) ((void)0)
#endif
