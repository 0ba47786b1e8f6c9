// A block of an accumulator in 8 bits, as floats while a loop is at it.
#ifndef TF_ADADELTA_CPU_STATE_BLOCK_H_
#define TF_ADADELTA_CPU_STATE_BLOCK_H_

#include <cstdint>

#include "adadelta.h"
#include "block_codes.h"
#include "cpu/packs.h"
#include "storage.h"

namespace tf_adadelta {
// Internal, since it differs from one instruction set to the next.
namespace {

class StateBlock {
 public:
  // Reads the `size` elements that are stored there.
  void Load(const uint8_t* stored, int64_t size) {
    const uint8_t* const codes = stored + 1;
    const float step = StepOf(stored[0]);
    uint8_t largest = 0;
    for (int64_t i = 0; i < size; ++i) largest = codes[i] > largest ? codes[i] : largest;
    for (int64_t i = 0; i < size; ++i) values_[i] = LoadCode(codes[i]) * step;
    if (largest > kLargestCode) largest = LoadAny(codes, size, step);
    resolution_ = ResolutionOf(stored[0], largest);
  }

  TF_ADADELTA_INLINE float Get(int64_t i) const { return values_[i]; }
  TF_ADADELTA_INLINE void Set(int64_t i, float value) { values_[i] = value; }

  // With an ε for the root of what was read, and has decayed since: what it was read as may have
  // been anything less than a step above it, so a zero is no zero there.
  TF_ADADELTA_INLINE Scalars<float> ScalarsOf(Scalars<float> scalars,
                                              float half_decay = 1.0f) const {
    scalars.epsilon += DecayIdle<float>(half_decay, resolution_);
    return scalars;
  }

  // Rounds what was set and writes it there. What is negative is stored as zero.
  void Store(const RandomHalves<kStateBlock>& roundings, int64_t size, uint8_t* stored) const {
    uint8_t* const codes = stored + 1;
    uint32_t largest = 0;
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t bits = ToBits(values_[i]);
      largest = bits > largest ? bits : largest;
    }
    if (largest >= kInfinityBits) return StoreAny(roundings, size, stored);
    const uint8_t scale = ScaleFor(largest);
    const float inverse = InverseStepOf(scale);
    stored[0] = scale;
    // In two loops, since vectors of bytes would leave too few registers for those of the floats.
    alignas(64) uint32_t words[kStateBlock];
    for (int64_t i = 0; i < size; ++i) {
      words[i] = StoreCode(values_[i] * inverse, roundings.Get(i));
    }
    for (int64_t i = 0; i < size; ++i) codes[i] = static_cast<uint8_t>(words[i]);
  }

 private:
  // Reads a block not all of which are numbers; returns the largest code of one.
  uint8_t LoadAny(const uint8_t* codes, int64_t size, float step) {
    uint8_t largest = 0;
    for (int64_t i = 0; i < size; ++i) {
      values_[i] = LoadAnyCode(codes[i], step);
      largest = NumberOf(codes[i]) > largest ? codes[i] : largest;
    }
    return largest;
  }

  // Stores one not all of which are numbers.
  void StoreAny(const RandomHalves<kStateBlock>& roundings, int64_t size, uint8_t* stored) const {
    uint32_t largest = 0;
    for (int64_t i = 0; i < size; ++i) {
      const uint32_t bits = NumberBits(values_[i]);
      largest = bits > largest ? bits : largest;
    }
    stored[0] = ScaleFor(largest);
    const float inverse = InverseStepOf(stored[0]);
    for (int64_t i = 0; i < size; ++i) {
      stored[1 + i] = StoreAnyCode(values_[i], inverse, roundings.Get(i));
    }
  }

  alignas(64) float values_[kStateBlock];
  float resolution_;
};

}  // namespace
}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_STATE_BLOCK_H_
