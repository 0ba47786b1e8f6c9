// What the bodies of the kernels have in common.
#ifndef TF_ADADELTA_CUDA_COMPUTE_H_
#define TF_ADADELTA_CUDA_COMPUTE_H_

#include "adadelta.h"
#include "cuda/dense.h"
#include "storage.h"
#include "tensor_update.h"

// An array whose index is not known when its loop is compiled would lie in memory, not in
// registers.
#if defined(__CUDA_ARCH__)
#define TF_ADADELTA_UNROLL _Pragma("unroll")
#define TF_ADADELTA_DO_NOT_UNROLL _Pragma("unroll 1")
#else
#define TF_ADADELTA_UNROLL
#define TF_ADADELTA_DO_NOT_UNROLL
#endif

namespace tf_adadelta::cuda {

TF_ADADELTA_INLINE double ReadScalar(const Scalar& scalar) {
  return scalar.pointer != nullptr ? *scalar.pointer : scalar.value;
}

template <typename T>
TF_ADADELTA_INLINE Scalars<T> ReadScalars(const DeviceHyperparameters& h) {
  return MakeScalars<T>(ReadScalar(h.learning_rate), ReadScalar(h.rho), ReadScalar(h.epsilon));
}

// The counter of the random bits of a variable.
template <typename Storage>
TF_ADADELTA_INLINE uint32_t ReadCounter([[maybe_unused]] const DeviceHyperparameters& h,
                                        [[maybe_unused]] const int64_t* seed_pointer,
                                        [[maybe_unused]] int64_t seed) {
  if constexpr (kIsRandom<Storage>) {
    return FirstCounter(seed_pointer != nullptr ? *seed_pointer : seed,
                        h.random.step_pointer != nullptr ? *h.random.step_pointer : h.random.step);
  } else {
    return 0;
  }
}

// How the element `element` is rounded of those from `counter` on.
template <typename Storage>
TF_ADADELTA_INLINE RoundingOf<Storage> RoundingAt([[maybe_unused]] uint32_t counter,
                                                  [[maybe_unused]] uint32_t element) {
  if constexpr (kIsRandom<Storage>) {
    const AtRandom word = {HashWord(counter + (element >> 1))};
    return (element & 1u) == 0 ? word : Other(word);
  } else {
    return {};
  }
}

template <typename Compute, typename Rounding, typename Storage>
TF_ADADELTA_INLINE void StoreRounded(const Compute& value, [[maybe_unused]] Rounding rounding,
                                     Storage* out) {
  if constexpr (kIsRandom<Storage>) {
    Store(value, rounding, out);
  } else {
    Store(value, out);
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_COMPUTE_H_
