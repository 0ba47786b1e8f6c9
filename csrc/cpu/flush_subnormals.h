// Flushes subnormal numbers to zero while an object of this class lives.
#ifndef TF_ADADELTA_CPU_FLUSH_SUBNORMALS_H_
#define TF_ADADELTA_CPU_FLUSH_SUBNORMALS_H_

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace tf_adadelta {

// Accumulators that decay towards zero reach the subnormal numbers, each of which costs over a
// hundred cycles, so they are flushed to zero: TensorFlow's own threads do the same.
class FlushSubnormals {
#if defined(__x86_64__)
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ, DAZ.
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  const unsigned int saved_;
#elif defined(__aarch64__)
 public:
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));  // FZ.
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_FLUSH_SUBNORMALS_H_
