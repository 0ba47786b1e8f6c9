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

// The type in which the step is computed, for each storage type.
template <typename Storage>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};

// Calls `use(storage)` with a value of the storage type that `dtype` names.
template <typename Use>
auto WithStorage(DType dtype, const Use& use) {
  switch (dtype) {
    case DType::kHalf:
      return use(Half{});
    case DType::kBFloat16:
      return use(BFloat16{});
    case DType::kFloat:
      return use(float{});
    case DType::kDouble:
      break;
  }
  return use(double{});
}

TF_ADADELTA_INLINE double ReadScalar(const Scalar& scalar) {
  return scalar.pointer != nullptr ? *scalar.pointer : scalar.value;
}

template <typename T>
TF_ADADELTA_INLINE Scalars<T> ReadScalars(const DeviceHyperparameters& h) {
  return MakeScalars<T>(ReadScalar(h.learning_rate), ReadScalar(h.rho), ReadScalar(h.epsilon));
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_COMPUTE_H_
