// What a call of an op updates, wherever its kernel runs.
#ifndef TF_ADADELTA_TENSORFLOW_CALLS_H_
#define TF_ADADELTA_TENSORFLOW_CALLS_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "bad_index.h"
#include "tensor_update.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/inputs.h"
#include "tensorflow/variables.h"

namespace tf_adadelta {

inline std::vector<TensorUpdate> UpdatesOf(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                                           const LockedVariables& vars) {
  std::vector<TensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    updates.push_back({vars.tensor(inputs.var(i))->data(), vars.tensor(inputs.accum(i))->data(),
                       vars.tensor(inputs.accum_update(i))->data(),
                       ctx->input(inputs.grad(i)).data(),
                       vars.tensor(inputs.var(i))->NumElements()});
  }
  return updates;
}

inline std::vector<SparseTensorUpdate> SparseUpdatesOf(tensorflow::OpKernelContext* ctx,
                                                       const Inputs& inputs,
                                                       const LockedVariables& vars) {
  std::vector<SparseTensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const tensorflow::TensorShape& shape = vars.tensor(inputs.var(i))->shape();
    int64_t row_elements = 1;
    for (int axis = 1; axis < shape.dims(); ++axis) row_elements *= shape.dim_size(axis);
    void* const clock = inputs.has_clocks() ? vars.tensor(inputs.clock(i))->data() : nullptr;
    updates.push_back({vars.tensor(inputs.var(i))->data(), vars.tensor(inputs.accum(i))->data(),
                       vars.tensor(inputs.accum_update(i))->data(),
                       ctx->input(inputs.grad(i)).data(), ctx->input(inputs.indices(i)).data(),
                       static_cast<int64_t*>(clock), shape.dim_size(0), row_elements,
                       ctx->input(inputs.indices(i)).NumElements()});
  }
  return updates;
}

// The error for an index that is out of range.
inline absl::Status OutOfRange(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                               const BadIndex& bad) {
  const int var = inputs.var(static_cast<int>(bad.variable));
  return absl::InvalidArgumentError(
      absl::StrCat(bad.Describe(), " ('", tensorflow::HandleFromInput(ctx, var).name(), "')"));
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_CALLS_H_
