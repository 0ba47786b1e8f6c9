// Accumulators in 8 bits: for each element a code, a float without a sign, with 4 bits of exponent
// and 4 of mantissa, and for each block of elements a byte of scale, a power of two.
//
// The blocks of a row are those of its elements in turn, so no block has elements of two rows. What
// is stored for a block begins with its scale. All bytes zero are zeros.
#ifndef TF_ADADELTA_BLOCK_CODES_H_
#define TF_ADADELTA_BLOCK_CODES_H_

#include <cstdint>

#include "random_bits.h"
#include "storage.h"

namespace tf_adadelta {

// The elements of a block; the last one of a row may have fewer.
inline constexpr int64_t kStateBlock = 256;

TF_ADADELTA_INLINE int64_t BlocksOfRow(int64_t row_elements) {
  return row_elements / kStateBlock + (row_elements % kStateBlock != 0);
}

// What is stored for a row.
TF_ADADELTA_INLINE int64_t BytesOfRow(int64_t row_elements) {
  return row_elements + BlocksOfRow(row_elements);
}

// A block of a variable: its elements, and what is stored for them.
struct BlockPlace {
  int64_t first;  // Of its elements.
  int64_t size;
  int64_t stored;       // Where it begins of what is stored.
  uint32_t first_word;  // Of the random bits of the variable.
};

TF_ADADELTA_INLINE BlockPlace PlaceOfBlock(int64_t block, int64_t row_elements) {
  const int64_t blocks = BlocksOfRow(row_elements);
  const int64_t row = block / blocks;
  const int64_t column = (block - row * blocks) * kStateBlock;
  const int64_t left = row_elements - column;
  const int64_t first = row * row_elements + column;
  return {first, left < kStateBlock ? left : kStateBlock, first + block,
          CounterOfRow(static_cast<uint32_t>(column / 2), row, row_elements)};
}

// The code of the largest number, and those above it.
inline constexpr uint8_t kLargestCode = 0xfd;
inline constexpr uint8_t kInfinityCode = 0xfe;
inline constexpr uint8_t kNanCode = 0xff;

// The largest codes are those from 2^18 steps on: code 16 has 16 steps, which double 14 times.
inline constexpr uint32_t kExponentOfStep = 18;
// The mantissa of the largest code.
inline constexpr uint32_t kMantissaOfLargest = (kLargestCode & 15u) << 19;

// The scale of a block whose largest number has these bits: the smallest that has a code for it, so
// that what a block is read as can be stored again without a loss. A step is never subnormal.
TF_ADADELTA_INLINE uint8_t ScaleFor(uint32_t largest) {
  const uint32_t exponent = (largest + ((1u << 23) - 1 - kMantissaOfLargest)) >> 23;
  return static_cast<uint8_t>(exponent > kExponentOfStep + 1 ? exponent - kExponentOfStep - 1 : 0);
}

// The value of code 1, below which there is none but zero.
TF_ADADELTA_INLINE float StepOf(uint8_t scale) { return FromBits((scale + 1u) << 23); }
TF_ADADELTA_INLINE float InverseStepOf(uint8_t scale) { return FromBits((253u - scale) << 23); }

// The step of the scale that `ScaleFor` has for what a block is read as: its own, or half of it
// where the largest number was rounded down to one of a smaller scale. So a block has the same one
// after a save and a load.
TF_ADADELTA_INLINE float ResolutionOf(uint8_t scale, uint8_t largest_code) {
  return StepOf(scale > 0 && largest_code <= kLargestCode - 16 ? scale - 1 : scale);
}

// The steps of a code that is a number.
TF_ADADELTA_INLINE float LoadCode(uint8_t code) {
  // Right from code 16 on. Others are read at half their value and with a leading one, of 8, that
  // they do not have.
  const float normal = FromBits((static_cast<uint32_t>(code) << 19) + (130u << 23));
  const float excess = normal - 16.0f;
  return normal + (excess < 0.0f ? excess : 0.0f);
}

// The code for a number of steps, from 0 to those of the largest code, rounded by 16 random bits.
TF_ADADELTA_INLINE uint32_t StoreCode(float steps, AtRandom rounding) {
  constexpr uint32_t kSixteen = 0x41800000u;
  // From 16 on codes are spaced like floats, whose upper bits they are; below, like those from 16.
  const uint32_t small = IfNegative(ToBits(steps) - kSixteen);
  const float spaced = steps + FromBits(small & kSixteen);
  // What is no whole number of the random bits' steps is rounded to one.
  const uint32_t bits = ToBits(spaced) + ((rounding.bits & 0xffffu) << 3) + (4u - (130u << 23));
  return (bits >> 19) - (small & 16u);
}

// The code where it is of a number, else 0.
TF_ADADELTA_INLINE uint8_t NumberOf(uint8_t code) { return code <= kLargestCode ? code : 0; }

// The value of any code.
TF_ADADELTA_INLINE float LoadAnyCode(uint8_t code, float step) {
  if (code == kInfinityCode) return kInfinity<float>;
  if (code == kNanCode) return kNan<float>;
  return LoadCode(code) * step;
}

// What is no number has these bits or larger ones, and so has what is negative, which is stored as
// zero.
inline constexpr uint32_t kInfinityBits = 0x7f800000u;

// The bits of a value that is stored as a number other than zero, else 0.
TF_ADADELTA_INLINE uint32_t NumberBits(float value) {
  return ToBits(value) < kInfinityBits ? ToBits(value) : 0;
}

// The code for any value, of which no number exceeds the scale.
TF_ADADELTA_INLINE uint8_t StoreAnyCode(float value, float inverse_step, AtRandom rounding) {
  if (value == kInfinity<float>) return kInfinityCode;
  if (value != value) return kNanCode;
  return static_cast<uint8_t>(StoreCode(FromBits(NumberBits(value)) * inverse_step, rounding));
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_BLOCK_CODES_H_
