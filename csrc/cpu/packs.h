// 16-bit elements that are loaded, computed and stored together, for the loops over them.
//
// What compilers make of a loop over single 16-bit elements is no faster than the loop over floats.
// So an element of the loop is a pack of them: as many as the processor converts at once, where it
// has instructions for it; else two neighbours, which are made floats where they lie in a word of
// 32 bits.
#ifndef TF_ADADELTA_CPU_PACKS_H_
#define TF_ADADELTA_CPU_PACKS_H_

#if defined(__AVX2__) && defined(__F16C__) && defined(__FMA__)
#define TF_ADADELTA_HALF_VECTORS 1
#include <immintrin.h>
#elif defined(__aarch64__)
#define TF_ADADELTA_HALF_VECTORS 1
#include <arm_neon.h>
#endif

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "adadelta.h"
#include "storage.h"

namespace tf_adadelta {
// Internal, since they differ from one instruction set to the next.
namespace {

// What is computed of two elements.
struct FloatPair {
  FloatPair() = default;
  TF_ADADELTA_INLINE FloatPair(float even, float odd) : even(even), odd(odd) {}
  TF_ADADELTA_INLINE explicit FloatPair(double both)
      : FloatPair(static_cast<float>(both), static_cast<float>(both)) {}

  float even;
  float odd;
};

TF_ADADELTA_INLINE FloatPair operator-(FloatPair a) { return {-a.even, -a.odd}; }
TF_ADADELTA_INLINE FloatPair operator+(FloatPair a, FloatPair b) {
  return {a.even + b.even, a.odd + b.odd};
}
TF_ADADELTA_INLINE FloatPair operator*(FloatPair a, FloatPair b) {
  return {a.even * b.even, a.odd * b.odd};
}
TF_ADADELTA_INLINE FloatPair operator/(FloatPair a, FloatPair b) {
  return {a.even / b.even, a.odd / b.odd};
}
TF_ADADELTA_INLINE FloatPair sqrt(FloatPair a) { return {std::sqrt(a.even), std::sqrt(a.odd)}; }

// Two neighbours, at any even address.
template <typename Element>
struct __attribute__((packed, may_alias)) Pair {
  uint32_t word;
};

#if defined(TF_ADADELTA_HALF_VECTORS)

#if defined(__AVX512F__)
// The mask of all elements: of the forms without one g++ 12 warns that they use what has no value.
inline constexpr __mmask16 kAll = 0xffff;
using Floats = __m512;
using Halves = __m256i;
TF_ADADELTA_INLINE Floats Broadcast(float value) { return _mm512_set1_ps(value); }
TF_ADADELTA_INLINE Floats Sqrt(Floats a) { return _mm512_maskz_sqrt_ps(kAll, a); }
TF_ADADELTA_INLINE Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
TF_ADADELTA_INLINE Floats ToFloats(Halves a) { return _mm512_maskz_cvtph_ps(kAll, a); }
TF_ADADELTA_INLINE Halves ToHalves(Floats a) {
  return _mm512_maskz_cvtps_ph(kAll, a, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__AVX2__)
using Floats = __m256;
using Halves = __m128i;
TF_ADADELTA_INLINE Floats Broadcast(float value) { return _mm256_set1_ps(value); }
TF_ADADELTA_INLINE Floats Sqrt(Floats a) { return _mm256_sqrt_ps(a); }
TF_ADADELTA_INLINE Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
TF_ADADELTA_INLINE Floats ToFloats(Halves a) { return _mm256_cvtph_ps(a); }
TF_ADADELTA_INLINE Halves ToHalves(Floats a) {
  return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT);
}
#else
using Floats = float32x4_t;
using Halves = float16x4_t;
TF_ADADELTA_INLINE Floats Broadcast(float value) { return vdupq_n_f32(value); }
TF_ADADELTA_INLINE Floats Sqrt(Floats a) { return vsqrtq_f32(a); }
TF_ADADELTA_INLINE Floats Fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
TF_ADADELTA_INLINE Floats ToFloats(Halves a) { return vcvt_f32_f16(a); }
TF_ADADELTA_INLINE Halves ToHalves(Floats a) { return vcvt_f16_f32(a); }
#endif

struct __attribute__((packed, may_alias)) UnalignedFloats {
  Floats floats;
};

struct FloatVector {
  FloatVector() = default;
  TF_ADADELTA_INLINE FloatVector(Floats floats) : floats(floats) {}
  TF_ADADELTA_INLINE explicit FloatVector(double all)
      : floats(Broadcast(static_cast<float>(all))) {}

  Floats floats;
};

TF_ADADELTA_INLINE FloatVector operator-(FloatVector a) { return -a.floats; }
TF_ADADELTA_INLINE FloatVector operator+(FloatVector a, FloatVector b) {
  return a.floats + b.floats;
}
TF_ADADELTA_INLINE FloatVector operator*(FloatVector a, FloatVector b) {
  return a.floats * b.floats;
}
TF_ADADELTA_INLINE FloatVector operator/(FloatVector a, FloatVector b) {
  return a.floats / b.floats;
}
TF_ADADELTA_INLINE FloatVector sqrt(FloatVector a) { return Sqrt(a.floats); }

// As many neighbours, at any even address.
struct __attribute__((packed, may_alias)) HalfVector {
  Halves halves;
};

#endif

// The pack of a storage type: a single element of the wider ones.
template <typename Element>
struct PackTypeOf {
  using Type = Element;
};
template <>
struct PackTypeOf<BFloat16> {
  using Type = Pair<BFloat16>;
};
template <>
struct PackTypeOf<StochasticBFloat16> {
  using Type = Pair<StochasticBFloat16>;
};
template <>
struct PackTypeOf<Half> {
#if defined(TF_ADADELTA_HALF_VECTORS)
  using Type = HalfVector;
#else
  using Type = Pair<Half>;
#endif
};

template <typename Element>
using PackOf = typename PackTypeOf<Element>::Type;

template <typename Element>
inline constexpr int64_t kPackElements = sizeof(PackOf<Element>) / sizeof(Element);

}  // namespace

template <typename Element>
struct ComputeTypeOf<Pair<Element>> {
  using Type = FloatPair;
};

template <typename Element>
struct RoundingTypeOf<Pair<Element>> {
  using Type = RoundingOf<Element>;
};

template <>
TF_ADADELTA_INLINE FloatPair MultiplyAdd(const FloatPair& a, const FloatPair& b,
                                         const FloatPair& c) {
  return {MultiplyAdd<float>(a.even, b.even, c.even), MultiplyAdd<float>(a.odd, b.odd, c.odd)};
}

template <>
TF_ADADELTA_INLINE FloatPair Clamp(const FloatPair& limit, const FloatPair& value) {
  return {Clamp<float>(limit.even, value.even), Clamp<float>(limit.odd, value.odd)};
}

template <>
TF_ADADELTA_INLINE float LoadHigh<StochasticBFloat16>(uint32_t word) {
  return LoadHigh<BFloat16>(word);
}

template <typename Element>
TF_ADADELTA_INLINE FloatPair Load(const Pair<Element>& pair) {
  const uint32_t word = pair.word;
  return {LoadHigh<Element>(word << 16), LoadHigh<Element>(word & 0xffff0000u)};
}

// Writes the floats of a pack, in the order of its elements.
TF_ADADELTA_INLINE void Unpack(const FloatPair& value, float* out) {
  out[0] = value.even;
  out[1] = value.odd;
}

template <typename Element>
TF_ADADELTA_INLINE void Store(const FloatPair& value, Pair<Element>* out) {
  out->word =
      (StoreHigh<Element>(value.even) >> 16) | (StoreHigh<Element>(value.odd) & 0xffff0000u);
}

TF_ADADELTA_INLINE void Store(const FloatPair& value, AtRandom rounding,
                              Pair<StochasticBFloat16>* out) {
  // No carry makes a number of what is not one (StoreHigh), so this need not ask.
  const uint32_t even = ToBits(value.even) + (rounding.bits & 0xffffu);
  const uint32_t odd = ToBits(value.odd) + (rounding.bits >> 16);
  out->word = (even >> 16) | (odd & 0xffff0000u);
}

#if defined(TF_ADADELTA_HALF_VECTORS)

template <>
struct ComputeTypeOf<HalfVector> {
  using Type = FloatVector;
};

template <>
TF_ADADELTA_INLINE FloatVector MultiplyAdd(const FloatVector& a, const FloatVector& b,
                                           const FloatVector& c) {
  return Fma(a.floats, b.floats, c.floats);
}

template <>
TF_ADADELTA_INLINE FloatVector Clamp(const FloatVector& limit, const FloatVector& value) {
  const Floats l = limit.floats;
  const Floats v = value.floats;
  return v < -l ? -l : (v > l ? l : v);
}

TF_ADADELTA_INLINE FloatVector Load(const HalfVector& halves) { return ToFloats(halves.halves); }

TF_ADADELTA_INLINE void Unpack(const FloatVector& value, float* out) {
  reinterpret_cast<UnalignedFloats*>(out)->floats = value.floats;
}

TF_ADADELTA_INLINE void Store(const FloatVector& value, HalfVector* out) {
  out->halves = ToHalves(value.floats);
}

#endif

template <typename Compute, typename Pack>
TF_ADADELTA_INLINE void Store(const Compute& value, ToNearest, Pack* out) {
  Store(value, out);
}

// How the pack `pack` of a variable is rounded that begins at `counter`.
template <typename Pack>
TF_ADADELTA_INLINE RoundingOf<Pack> RoundingAt([[maybe_unused]] uint32_t counter,
                                               [[maybe_unused]] int64_t pack) {
  static_assert(!std::is_same_v<Pack, FloatBFloat16State>, "see RandomHalves");
  if constexpr (kIsRandom<Pack>) {
    return {HashWord(counter + static_cast<uint32_t>(pack))};
  } else {
    return {};
  }
}

// Calls `use(first, count)` for the packs of `size` elements: with the element where each begins
// and how many are left for it, as a constant where that is all that fit.
template <typename Element, typename Use>
TF_ADADELTA_INLINE void ForEachPack(int64_t size, const Use& use) {
  constexpr int64_t kElements = kPackElements<Element>;
  const int64_t packs = size / kElements;
  for (int64_t i = 0; i < packs; ++i) {
    use(i * kElements, std::integral_constant<int64_t, kElements>{});
  }
  if constexpr (kElements > 1) {
    if (size % kElements != 0) use(packs * kElements, size % kElements);
  }
}

// Loads and stores the `count` elements at `array`, fewer than fill a pack.
template <typename Element>
TF_ADADELTA_INLINE ComputeOf<PackOf<Element>> LoadRest(const Element* array, int64_t count) {
  Element elements[kPackElements<Element>] = {};
  for (int64_t i = 0; i < count; ++i) elements[i] = array[i];
  return Load(*reinterpret_cast<const PackOf<Element>*>(elements));
}

template <typename Element>
TF_ADADELTA_INLINE void StoreRest(const ComputeOf<PackOf<Element>>& value,
                                  RoundingOf<Element> rounding, Element* array, int64_t count) {
  Element elements[kPackElements<Element>];
  Store(value, rounding, reinterpret_cast<PackOf<Element>*>(elements));
  for (int64_t i = 0; i < count; ++i) array[i] = elements[i];
}

// A row of a narrow table is nothing but such a rest. Put together in memory it would cost more
// than the update: a vector cannot be loaded before all the pieces that were stored have left the
// core.
#if defined(__AVX512F__)

TF_ADADELTA_INLINE __mmask16 MaskOf(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}

TF_ADADELTA_INLINE FloatVector LoadRest(const Half* array, int64_t count) {
  return ToFloats(_mm256_maskz_loadu_epi16(MaskOf(count), array));
}

TF_ADADELTA_INLINE void StoreRest(const FloatVector& value, ToNearest, Half* array, int64_t count) {
  _mm256_mask_storeu_epi16(array, MaskOf(count), ToHalves(value.floats));
}

#elif defined(__F16C__)

// Up to three elements, the first lowest.
TF_ADADELTA_INLINE uint64_t LoadFew(const Half* array, int64_t count) {
  uint64_t bits = (count & 1) != 0 ? array[count - 1].bits : 0;
  if ((count & 2) != 0) bits = bits << 32 | reinterpret_cast<const Pair<Half>*>(array)->word;
  return bits;
}

TF_ADADELTA_INLINE void StoreFew(uint64_t bits, Half* array, int64_t count) {
  if ((count & 2) != 0) {
    reinterpret_cast<Pair<Half>*>(array)->word = static_cast<uint32_t>(bits);
    bits >>= 32;
  }
  if ((count & 1) != 0) array[count - 1].bits = static_cast<uint16_t>(bits);
}

TF_ADADELTA_INLINE FloatVector LoadRest(const Half* array, int64_t count) {
  const bool has_four = (count & 4) != 0;
  uint64_t low = 0;
  if (has_four) __builtin_memcpy(&low, array, sizeof(low));
  const uint64_t few = LoadFew(has_four ? array + 4 : array, count & 3);
  return ToFloats(_mm_set_epi64x(has_four ? few : 0, has_four ? low : few));
}

TF_ADADELTA_INLINE void StoreRest(const FloatVector& value, ToNearest, Half* array, int64_t count) {
  const Halves halves = ToHalves(value.floats);
  uint64_t few = _mm_cvtsi128_si64(halves);
  if ((count & 4) != 0) {
    __builtin_memcpy(array, &few, sizeof(few));
    few = _mm_extract_epi64(halves, 1);
    array += 4;
  }
  StoreFew(few, array, count & 3);
}

#endif

// Loads and stores the pack at `array`, of which there are `count` elements.
template <typename Element, typename Count>
TF_ADADELTA_INLINE ComputeOf<PackOf<Element>> LoadPack(const Element* array,
                                                       [[maybe_unused]] Count count) {
  if constexpr (std::is_same_v<Count, int64_t>) {
    return LoadRest(array, count);
  } else {
    return Load(*reinterpret_cast<const PackOf<Element>*>(array));
  }
}

template <typename Element, typename Count>
TF_ADADELTA_INLINE void StorePack(const ComputeOf<PackOf<Element>>& value,
                                  RoundingOf<Element> rounding, Element* array,
                                  [[maybe_unused]] Count count) {
  if constexpr (std::is_same_v<Count, int64_t>) {
    StoreRest(value, rounding, array, count);
  } else {
    Store(value, rounding, reinterpret_cast<PackOf<Element>*>(array));
  }
}

namespace {

// The values of a chunk, which wait in the first cache.
template <typename Compute, int64_t kSize>
class Values {
 public:
  TF_ADADELTA_INLINE Compute Get(int64_t i) const { return values_[i]; }
  TF_ADADELTA_INLINE void Set(int64_t i, const Compute& value) { values_[i] = value; }
  TF_ADADELTA_INLINE void Fill(double value) {
    for (Compute& each : values_) each = Compute(value);
  }

 private:
  alignas(64) Compute values_[kSize];
};

// Whether elements are rounded one by one, but two of them share a word of random bits.
template <typename Storage>
inline constexpr bool kHasRandomHalves = !std::is_same_v<StateOf<Storage>, Storage>;

// How single elements are rounded at random: a word for two of them is made once.
template <int64_t kSize>
class RandomHalves {
 public:
  // For `size` elements from an even one on, whose word is that of `counter`.
  TF_ADADELTA_INLINE void Fill(uint32_t counter, int64_t size) {
    const auto words = static_cast<uint32_t>((size + 1) / 2);
    for (uint32_t i = 0; i < words; ++i) bits_.words[i] = HashWord(counter + i);
  }
  TF_ADADELTA_INLINE AtRandom Get(int64_t i) const { return {bits_.halves[i]}; }

 private:
  alignas(64) union {
    uint32_t words[kSize / 2];
    uint16_t halves[kSize];  // The lower half of a word first.
  } bits_;
};

// Evens and odds by themselves, so that no vector of them is shuffled either.
template <int64_t kSize>
class Values<FloatPair, kSize> {
 public:
  TF_ADADELTA_INLINE FloatPair Get(int64_t i) const { return {evens_[i], odds_[i]}; }
  TF_ADADELTA_INLINE void Set(int64_t i, const FloatPair& value) {
    evens_[i] = value.even;
    odds_[i] = value.odd;
  }
  TF_ADADELTA_INLINE void Fill(double value) {
    for (int64_t i = 0; i < kSize; ++i) Set(i, FloatPair(value));
  }

 private:
  alignas(64) float evens_[kSize];
  alignas(64) float odds_[kSize];
};

}  // namespace
}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_PACKS_H_
