// The GIL, given away and taken back.
#pragma once

#include <Python.h>
#include <cxxabi.h>
#include <unistd.h>

namespace ek {

/// Lets other Python threads run while it lives.
///
/// An interpreter that has ended meanwhile (this is a daemon thread) does not give the GIL back: before 3.14 Python
/// ends the thread by unwinding its stack, through destructors here and in pybind11 that touch Python objects or may
/// not be left, which aborts the process. The thread is stopped instead, as Python 3.14 does itself: nothing of it runs
/// again, and it goes with the process.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  ~WithoutGil() { take_back(); }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  void take_back() {
    try {
      PyEval_RestoreThread(state_);
    } catch (const abi::__forced_unwind&) {
      for (;;) pause();
    }
  }

  PyThreadState* const state_;
};

}  // namespace ek
