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

// The type of the indices of a sparse gradient.
enum class IndexType { kInt32, kInt64 };

// One variable of a call whose gradient is sparse: tables of `rows` times `row_elements` elements,
// and a gradient of which row p belongs to row indices[p] of the variable. An index may come
// several times; those rows are summed, in their order.
struct SparseTensorUpdate {
  void* var;
  void* accum;
  void* accum_update;
  const void* grad;
  const void* indices;
  // Null: rows without a gradient are left as they are. Else rows + 1 counts: of the updates that
  // each row has caught up with, and of those that the variable has had. A row that has fallen
  // behind catches up when it is next touched.
  int64_t* clock;
  int64_t rows;
  int64_t row_elements;
  int64_t num_indices;
};

struct Hyperparameters {
  double learning_rate;
  double rho;
  double epsilon;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSOR_UPDATE_H_
