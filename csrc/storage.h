// The 16-bit storage types: loads to float and round-to-nearest-even stores.
//
// On the host branch-free integer code that any compiler vectorises for any instruction set. It
// never makes a float subnormal, so it gives the same result whether or not the processor flushes
// them. On a GPU the instructions for it.
#ifndef TF_ADADELTA_STORAGE_H_
#define TF_ADADELTA_STORAGE_H_

#include <cstdint>

#include "adadelta.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tf_adadelta {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// A union, because std::memcpy is a library function that could be emitted once per instruction set
// and then merged across them by the linker.
union FloatBits {
  float f;
  uint32_t u;
};

TF_ADADELTA_INLINE uint32_t ToBits(float value) {
  FloatBits b;
  b.f = value;
  return b.u;
}

TF_ADADELTA_INLINE float FromBits(uint32_t bits) {
  FloatBits b;
  b.u = bits;
  return b.f;
}

TF_ADADELTA_INLINE float Load(float value) { return value; }
TF_ADADELTA_INLINE double Load(double value) { return value; }
TF_ADADELTA_INLINE void Store(float value, float* out) { *out = value; }
TF_ADADELTA_INLINE void Store(double value, double* out) { *out = value; }

#if defined(__CUDA_ARCH__)

TF_ADADELTA_INLINE float Load(BFloat16 value) {
  return __bfloat162float(__ushort_as_bfloat16(value.bits));
}

TF_ADADELTA_INLINE void Store(float value, BFloat16* out) {
  out->bits = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

TF_ADADELTA_INLINE float Load(Half value) { return __half2float(__ushort_as_half(value.bits)); }

TF_ADADELTA_INLINE void Store(float value, Half* out) {
  out->bits = __half_as_ushort(__float2half_rn(value));
}

#else

TF_ADADELTA_INLINE float Load(BFloat16 value) {
  return FromBits(static_cast<uint32_t>(value.bits) << 16);
}

TF_ADADELTA_INLINE void Store(float value, BFloat16* out) {
  const uint32_t bits = ToBits(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t nan = (bits >> 16) | 0x40u;
  out->bits = static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

TF_ADADELTA_INLINE float Load(Half value) {
  const uint32_t magnitude = value.bits & 0x7fffu;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000u) << 16;
  // A subnormal half is a whole number of 2^-24.
  const uint32_t subnormal = ToBits(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f);
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t infinite_or_nan = (magnitude << 13) | 0x7f800000u;
  const uint32_t bits =
      magnitude < 0x0400u ? subnormal : (magnitude < 0x7c00u ? normal : infinite_or_nan);
  return FromBits(bits | sign);
}

TF_ADADELTA_INLINE void Store(float value, Half* out) {
  const uint32_t bits = ToBits(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  // Next to 0.5 the spacing of floats is the spacing of subnormal halves: the addition rounds.
  const uint32_t subnormal = ToBits(FromBits(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t normal = (magnitude - (112u << 23) + 0x0fffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t infinite_or_nan = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;
  const uint32_t result = magnitude < 0x38800000u   ? subnormal
                          : magnitude < 0x477ff000u ? normal
                                                    : infinite_or_nan;
  out->bits = static_cast<uint16_t>(result | sign);
}

#endif

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_STORAGE_H_
