// What one call updates. Shared by the CPU and the CUDA kernels and by every door to them.
#ifndef TF_ADADELTA_TENSOR_UPDATE_H_
#define TF_ADADELTA_TENSOR_UPDATE_H_

#include <cstdint>

namespace tf_adadelta {

// The storage type of a variable, its two accumulators and its gradient.
enum class DType { kHalf, kBFloat16, kFloat, kDouble };

// One variable of a call: four buffers of `count` elements each. The three that are written overlap
// nothing else in the call.
struct TensorUpdate {
  void* var;
  void* accum;
  void* accum_update;
  const void* grad;
  int64_t count;
};

struct Hyperparameters {
  double learning_rate;
  double rho;
  double epsilon;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSOR_UPDATE_H_
