// FpGuard: round to nearest even, no flush-to-zero, whatever torch or a -ffast-math library left behind.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace ek {

/// Sets the floating-point control word that every result is defined under, and restores the caller's.
class FpGuard {
 public:
#if defined(__SSE__)
  FpGuard() : saved_(_mm_getcsr()) { _mm_setcsr(0x1F80); }  // power-on default: RNE, all exceptions masked, no FTZ/DAZ
  ~FpGuard() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FpGuard() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(uint64_t{0}));
  }
  ~FpGuard() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  FpGuard() : saved_(0) {}
#endif
  FpGuard(const FpGuard&) = delete;
  FpGuard& operator=(const FpGuard&) = delete;

 private:
#if defined(__aarch64__)
  uint64_t saved_;
#else
  unsigned saved_;
#endif
};

}  // namespace ek
