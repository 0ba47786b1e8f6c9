// The random bits of stochastic rounding: 16 for each element of a variable at each step.
//
// They are a hash of a counter, so they depend on a seed, the step and the place of the element
// alone: not on threads, vectors, or the processor.
#ifndef TF_ADADELTA_RANDOM_BITS_H_
#define TF_ADADELTA_RANDOM_BITS_H_

#include <cstdint>

#include "adadelta.h"

namespace tf_adadelta {

// A word each bit of which depends on every bit of `counter`, and no two counters have the same.
// The multipliers are those of lowbias32 (Wellons, "Prospecting for Hash Functions", 2018).
TF_ADADELTA_INLINE uint32_t HashWord(uint32_t counter) {
  counter ^= counter >> 16;
  counter *= 0x7feb352du;
  counter ^= counter >> 15;
  counter *= 0x846ca68bu;
  counter ^= counter >> 16;
  return counter;
}

// The same of 64 bits: splitmix64 (Steele, Lea and Flood, 2014).
TF_ADADELTA_INLINE uint64_t HashLong(uint64_t counter) {
  counter += 0x9e3779b97f4a7c15u;
  counter = (counter ^ (counter >> 30)) * 0xbf58476d1ce4e5b9u;
  counter = (counter ^ (counter >> 27)) * 0x94d049bb133111ebu;
  return counter ^ (counter >> 31);
}

// The counter of the first two elements of a variable in a step. Any two neighbours, of which the
// first has an even index, share a word: it has the lower half, the other one the upper. The
// counter after the last is the first one, so a variable has the same bits again after 2^33
// elements.
TF_ADADELTA_INLINE uint32_t FirstCounter(int64_t seed, int64_t step) {
  const uint64_t hash =
      HashLong(static_cast<uint64_t>(seed) ^ HashLong(static_cast<uint64_t>(step)));
  return static_cast<uint32_t>(hash >> 32);
}

// The same for a row of a table, whose rows begin with a word of their own.
TF_ADADELTA_INLINE uint32_t CounterOfRow(uint32_t first_counter, int64_t row,
                                         int64_t row_elements) {
  const int64_t words = row_elements / 2 + row_elements % 2;
  return first_counter + static_cast<uint32_t>(row) * static_cast<uint32_t>(words);
}

// How a value is rounded where it is stored.
struct ToNearest {};
struct AtRandom {
  // Of an element the lower 16 are used; a pair has one word.
  uint32_t bits;
};

// For what is stored beside another value that was rounded by the same bits: those of the
// neighbour.
TF_ADADELTA_INLINE ToNearest Other(ToNearest rounding) { return rounding; }
TF_ADADELTA_INLINE AtRandom Other(AtRandom rounding) {
  return {(rounding.bits << 16) | (rounding.bits >> 16)};
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_RANDOM_BITS_H_
