// Pieces of float16 arrays made floats, and back, by the instructions for it. No compiler makes
// these of a loop over Load and Store, whose integer code is what is left to processors without.
#ifndef TF_ADADELTA_CPU_HALF_PIECES_H_
#define TF_ADADELTA_CPU_HALF_PIECES_H_

#if defined(__F16C__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include <cstdint>

#include "adadelta.h"
#include "storage.h"

namespace tf_adadelta {

TF_ADADELTA_INLINE void Widen(const Half* __restrict__ in, int64_t size, float* __restrict__ out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i <= size - 8; i += 8) {
    const __m128i halves = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(halves));
  }
#elif defined(__aarch64__)
  for (; i <= size - 4; i += 4) {
    const uint16x4_t halves = vld1_u16(reinterpret_cast<const uint16_t*>(in + i));
    vst1q_f32(out + i, vcvt_f32_f16(vreinterpret_f16_u16(halves)));
  }
#endif
  for (; i < size; ++i) out[i] = Load(in[i]);
}

TF_ADADELTA_INLINE void Narrow(const float* __restrict__ in, int64_t size, Half* __restrict__ out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i <= size - 8; i += 8) {
    const __m256 values = _mm256_loadu_ps(in + i);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__aarch64__)
  for (; i <= size - 4; i += 4) {
    const float16x4_t values = vcvt_f16_f32(vld1q_f32(in + i));
    vst1_u16(reinterpret_cast<uint16_t*>(out + i), vreinterpret_u16_f16(values));
  }
#endif
  for (; i < size; ++i) Store(in[i], &out[i]);
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_HALF_PIECES_H_
