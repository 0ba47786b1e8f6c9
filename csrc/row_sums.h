// The order in which the gradients of a row are added, on the CPU and on the GPU.
//
// A row may have thousands: an index that stands for padding has a third of a batch. So that a GPU
// can add them side by side, and the result has the same bits everywhere, they are added by groups,
// which begin with the first gradient of the row: each kSumRows gradients to a sum, each kSumRows
// of these sums to a sum of sums. The gradient of the row is what the sums of sums, the sums that
// are in none of them, and the gradients that are in no sum add up to, one after the other.
#ifndef TF_ADADELTA_ROW_SUMS_H_
#define TF_ADADELTA_ROW_SUMS_H_

#include <cstdint>

namespace tf_adadelta {

inline constexpr int64_t kSumRows = 64;

// The gradients in a sum (of level 1) and in a sum of sums (of level 2).
template <int kLevel>
inline constexpr int64_t kRowsOfSum = kSumRows * kRowsOfSum<kLevel - 1>;
template <>
inline constexpr int64_t kRowsOfSum<0> = 1;

inline constexpr int kSumLevels = 2;

// What sums begin with: added to anything, even to a zero of either sign, it changes nothing.
inline constexpr float kNothing = -0.0f;

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_ROW_SUMS_H_
