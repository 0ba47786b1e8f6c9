// Asks for memory before it is needed.
#ifndef TF_ADADELTA_CPU_PREFETCH_H_
#define TF_ADADELTA_CPU_PREFETCH_H_

#include <cstdint>

#include "adadelta.h"

namespace tf_adadelta {

// The first kilobyte of the `bytes` bytes at `address`, where there need not be any memory.
TF_ADADELTA_INLINE void Prefetch(const void* address, int64_t bytes) {
  constexpr int64_t kLine = 64;
  constexpr int64_t kMostLines = 16;
  // What does not begin with a line ends in one more.
  const int64_t before = static_cast<int64_t>(reinterpret_cast<uintptr_t>(address) % kLine);
  const char* const begin = static_cast<const char*>(address) - before;
  for (int64_t line = 0; line < kMostLines && line * kLine < before + bytes; ++line) {
    __builtin_prefetch(begin + line * kLine);
  }
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_PREFETCH_H_
