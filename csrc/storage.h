// The 16-bit storage types: loads to float, and stores that round to the nearest, ties to even, or
// at random.
//
// On the host branch-free integer code that any compiler vectorises for any instruction set. It
// never makes a float subnormal, so it gives the same result whether or not the processor flushes
// them. On a GPU the instructions for it.
#ifndef TF_ADADELTA_STORAGE_H_
#define TF_ADADELTA_STORAGE_H_

#include <cstdint>
#include <type_traits>

#include "adadelta.h"
#include "random_bits.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace tf_adadelta {

// How a variable, its two accumulators and its gradient are stored.
enum class DType {
  kHalf,
  kBFloat16,
  kFloat,
  kDouble,
  kStochasticBFloat16,
  kFloatBFloat16State,
  kFloatUInt8State
};

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// A bfloat16 that is rounded up with the probability that makes its expected value right. Rounded
// to the nearest, a value that changes by less than half a step would never change.
struct StochasticBFloat16 {
  uint16_t bits;
};

// A float of a variable whose two accumulators are in bfloat16, rounded like that.
struct FloatBFloat16State {
  float value;
};

// A float of a variable whose two accumulators are in 8 bits (block_codes.h), rounded like that.
struct FloatUInt8State {
  float value;
};

template <typename Storage>
struct StateTypeOf {
  using Type = Storage;
};
template <>
struct StateTypeOf<FloatBFloat16State> {
  using Type = StochasticBFloat16;
};
template <>
struct StateTypeOf<FloatUInt8State> {
  using Type = uint8_t;
};

// The type of the accumulators of a variable.
template <typename Storage>
using StateOf = typename StateTypeOf<Storage>::Type;

// Calls `use(element)` with a value of the type that is read of arrays of `dtype`.
template <typename Use>
auto WithElement(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kHalf:
      return use(Half{});
    case DType::kBFloat16:
    case DType::kStochasticBFloat16:
      return use(BFloat16{});
    case DType::kFloat:
    case DType::kFloatBFloat16State:
    case DType::kFloatUInt8State:
      return use(float{});
    case DType::kDouble:
      break;
  }
  return use(double{});
}

// The same with the type that is stored, which says how it is rounded and how accumulators are too.
template <typename Use>
auto WithStorage(DType dtype, const Use& use) {
  if (dtype == DType::kStochasticBFloat16) return use(StochasticBFloat16{});
  if (dtype == DType::kFloatBFloat16State) return use(FloatBFloat16State{});
  if (dtype == DType::kFloatUInt8State) return use(FloatUInt8State{});
  return WithElement(dtype, use);
}

template <typename Storage>
struct ComputeTypeOf {
  using Type = float;
};
template <>
struct ComputeTypeOf<double> {
  using Type = double;
};

// The type in which the step is computed.
template <typename Storage>
using ComputeOf = typename ComputeTypeOf<Storage>::Type;

template <typename Storage>
struct RoundingTypeOf {
  using Type = ToNearest;
};
template <>
struct RoundingTypeOf<StochasticBFloat16> {
  using Type = AtRandom;
};
template <>
struct RoundingTypeOf<uint8_t> {
  using Type = AtRandom;
};

// Whether accumulators are in blocks (block_codes.h).
template <typename Storage>
inline constexpr bool kInBlocks = std::is_same_v<StateOf<Storage>, uint8_t>;

// How accumulators are rounded, and with them a variable of their type.
template <typename Storage>
using RoundingOf = typename RoundingTypeOf<StateOf<Storage>>::Type;

template <typename Storage>
inline constexpr bool kIsRandom = std::is_same_v<RoundingOf<Storage>, AtRandom>;

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

// All ones where `value` is negative, as one instruction wherever there are vectors; a compiler
// makes more of a choice between two values.
TF_ADADELTA_INLINE uint32_t IfNegative(uint32_t value) {
  return static_cast<uint32_t>(static_cast<int32_t>(value) >> 31);
}

TF_ADADELTA_INLINE float Load(float value) { return value; }
TF_ADADELTA_INLINE double Load(double value) { return value; }
TF_ADADELTA_INLINE void Store(float value, float* out) { *out = value; }
TF_ADADELTA_INLINE void Store(double value, double* out) { *out = value; }

// Rounds a value, in the upper half of a word, by the lower half of `bits`. What is not a number is
// cut short; an infinity stays one.
TF_ADADELTA_INLINE uint32_t StoreHighAtRandom(float value, uint32_t bits) {
  return ToBits(value) + (value == value ? bits & 0xffffu : 0u);
}

TF_ADADELTA_INLINE float Load(FloatBFloat16State element) { return element.value; }
TF_ADADELTA_INLINE void Store(float value, AtRandom, FloatBFloat16State* out) {
  out->value = value;
}
TF_ADADELTA_INLINE float Load(FloatUInt8State element) { return element.value; }
TF_ADADELTA_INLINE void Store(float value, AtRandom, FloatUInt8State* out) { out->value = value; }

TF_ADADELTA_INLINE void Store(float value, AtRandom rounding, StochasticBFloat16* out) {
  out->bits = static_cast<uint16_t>(StoreHighAtRandom(value, rounding.bits) >> 16);
}

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

// The value of an element in the upper half of a word, whose lower half is zero.
template <typename Element>
TF_ADADELTA_INLINE float LoadHigh(uint32_t word);

// Rounds a value to an element in the upper half of a word, whose lower half means nothing.
template <typename Element>
TF_ADADELTA_INLINE uint32_t StoreHigh(float value);

template <>
TF_ADADELTA_INLINE float LoadHigh<BFloat16>(uint32_t word) {
  return FromBits(word);
}

template <>
TF_ADADELTA_INLINE uint32_t StoreHigh<BFloat16>(float value) {
  // What is not a number has a lower half of zero, as the elements that it is made of have
  // (ToScalar), so no carry makes a number of it.
  const uint32_t bits = ToBits(value);
  return bits + 0x7fffu + ((bits >> 16) & 1u);
}

template <>
TF_ADADELTA_INLINE float LoadHigh<Half>(uint32_t word) {
  const uint32_t sign = word & 0x80000000u;
  const uint32_t magnitude = (word >> 3) & 0x0fffe000u;
  const uint32_t infinite_or_nan = IfNegative(0x0f7fffffu - magnitude) & 0x7f800000u;
  // Right for a normal half. A subnormal one is read at half its value and with a leading one of
  // 2^-15 that it does not have.
  const float normal = FromBits(magnitude + (112u << 23));
  const uint32_t excess = ToBits(normal - 0x1p-14f);
  const float value = normal + FromBits(excess & IfNegative(excess));
  return FromBits(ToBits(value) | infinite_or_nan | sign);
}

template <>
TF_ADADELTA_INLINE uint32_t StoreHigh<Half>(float value) {
  constexpr uint32_t kInfinity = 0x47800000u;  // 2^16: the half after the largest.
  constexpr uint32_t kNormal = 0x38800000u;    // 2^-14: below the spacing stays.
  const uint32_t sign = ToBits(value) & 0x80000000u;
  const uint32_t magnitude = ToBits(value) ^ sign;
  const uint32_t nan = IfNegative(0x7f800000u - magnitude) & 0x02000000u;
  const uint32_t below_infinity = magnitude - kInfinity;
  const uint32_t bounded = kInfinity + (below_infinity & IfNegative(below_infinity));
  const uint32_t above_normal = bounded - kNormal;
  const uint32_t exponent = (kNormal + (above_normal & ~IfNegative(above_normal))) & 0x7f800000u;
  // Next to this the spacing of floats is that of halves: the addition rounds.
  const uint32_t unit = exponent + (13u << 23);
  const uint32_t halves = ToBits(FromBits(bounded) + FromBits(unit)) - unit;
  const uint32_t result = halves + ((exponent - kNormal) >> 13);
  return (result << 16) | nan | sign;
}

TF_ADADELTA_INLINE float Load(BFloat16 value) {
  return LoadHigh<BFloat16>(static_cast<uint32_t>(value.bits) << 16);
}

TF_ADADELTA_INLINE void Store(float value, BFloat16* out) {
  out->bits = static_cast<uint16_t>(StoreHigh<BFloat16>(value) >> 16);
}

TF_ADADELTA_INLINE float Load(Half value) {
  return LoadHigh<Half>(static_cast<uint32_t>(value.bits) << 16);
}

TF_ADADELTA_INLINE void Store(float value, Half* out) {
  out->bits = static_cast<uint16_t>(StoreHigh<Half>(value) >> 16);
}

#endif

TF_ADADELTA_INLINE float Load(StochasticBFloat16 value) { return Load(BFloat16{value.bits}); }

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_STORAGE_H_
