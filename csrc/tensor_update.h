// What one call updates. Shared by the CPU and the CUDA kernels and by every door to them.
#ifndef TF_ADADELTA_TENSOR_UPDATE_H_
#define TF_ADADELTA_TENSOR_UPDATE_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "block_codes.h"
#include "storage.h"

namespace tf_adadelta {

// One variable of a call: buffers of `count` elements each. Those that are written overlap nothing
// else in the call. All variables of a call have an average, or none has; likewise for grad_accum.
// The buffers of an empty variable may be null.
struct TensorUpdate {
  void* var;
  void* accum;
  void* accum_update;
  const void* grad;
  int64_t count;
  void* average = nullptr;     // The moving average of the variable.
  void* grad_accum = nullptr;  // The sum of the gradients since the last update.
  int64_t random_seed = 0;     // Of a variable that is rounded at random (random_bits.h).
  int64_t row_elements = 0;    // Of a variable whose accumulators are in blocks (block_codes.h).
};

// Whether the variables of a call have these. All are asked, since an empty one does not tell.
inline bool HaveAverages(const std::vector<TensorUpdate>& updates) {
  return std::any_of(updates.begin(), updates.end(),
                     [](const TensorUpdate& update) { return update.average != nullptr; });
}
template <typename Update>
bool HaveGradAccums(const std::vector<Update>& updates) {
  return std::any_of(updates.begin(), updates.end(),
                     [](const Update& update) { return update.grad_accum != nullptr; });
}

// The blocks of such a variable.
inline int64_t BlocksOf(const TensorUpdate& update) {
  if (update.count == 0) return 0;
  return update.count / update.row_elements * BlocksOfRow(update.row_elements);
}

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
  int64_t random_seed = 0;
};

// Returns the updates with the seeds of an array that has one for each; of none, as they are.
template <typename Update>
std::vector<Update> WithSeeds(std::vector<Update> updates, const int64_t* seeds) {
  if (seeds == nullptr) return updates;
  for (Update& update : updates) update.random_seed = *seeds++;
  return updates;
}

// The elements of a row of a table; 0 where there is no row, whose other dimensions may then have
// any product.
inline int64_t RowElements(int64_t rows, int64_t elements) {
  return rows > 0 ? elements / rows : 0;
}

struct Hyperparameters {
  double learning_rate;
  double rho;
  double epsilon;
  int64_t step = 0;  // Tells apart the random bits of one step from those of another.
};

// What is done around the update in the same pass, in this order.
struct Options {
  // A gradient is multiplied by it and added to grad_accum.
  double grad_scale = 1.0;
  // With grad_accum: whether this is a step that updates. Else only the average is taken.
  bool update = true;
  // The sum, or the gradient, is multiplied by the factor of its variable, of which there is one
  // for each variable of the call (null: 1) ...
  const double* clip_factors = nullptr;
  // ... and its elements clamped to this magnitude.
  double clipvalue = std::numeric_limits<double>::infinity();
  // The variable loses learning_rate * weight_decay of itself, and is updated.
  double weight_decay = 0.0;
  // average = ema_momentum * average + (1 - ema_momentum) * var.
  double ema_momentum = 0.0;
};

// Whether nothing is asked for around the update of these variables.
inline bool IsPlain(const std::vector<TensorUpdate>& updates, const Options& o) {
  const Options none;
  return !HaveAverages(updates) && !HaveGradAccums(updates) && o.grad_scale == none.grad_scale &&
         o.clip_factors == none.clip_factors && o.clipvalue == none.clipvalue &&
         o.weight_decay == none.weight_decay;
}

// A gradient of which the norm is asked for, with what it will be added to (or null).
struct NormInput {
  const void* grad;
  const void* grad_accum;
  int64_t count;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSOR_UPDATE_H_
