// TensorFlow's types as the kernels' types.
#ifndef TF_ADADELTA_TENSORFLOW_DTYPE_H_
#define TF_ADADELTA_TENSORFLOW_DTYPE_H_

#include "tensor_update.h"
#include "tensorflow/core/framework/types.h"

namespace tf_adadelta {

template <typename T>
constexpr DType DTypeOf();
template <>
constexpr DType DTypeOf<Eigen::half>() {
  return DType::kHalf;
}
template <>
constexpr DType DTypeOf<Eigen::bfloat16>() {
  return DType::kBFloat16;
}
template <>
constexpr DType DTypeOf<float>() {
  return DType::kFloat;
}
template <>
constexpr DType DTypeOf<double>() {
  return DType::kDouble;
}

template <typename Index>
constexpr IndexType IndexTypeOf() {
  static_assert(sizeof(Index) == 4 || sizeof(Index) == 8);
  return sizeof(Index) == 4 ? IndexType::kInt32 : IndexType::kInt64;
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_DTYPE_H_
