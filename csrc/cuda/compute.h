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

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_COMPUTE_H_
