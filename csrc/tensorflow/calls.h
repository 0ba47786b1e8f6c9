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

// The memory of an input of a list, null where the call has no such list.
inline void* ResourceData(const Inputs& inputs, const LockedVariables& vars, Inputs::List list,
                          int i) {
  return inputs.has(list) ? vars.tensor(inputs.at(list, i))->data() : nullptr;
}

inline std::vector<TensorUpdate> UpdatesOf(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                                           const LockedVariables& vars) {
  std::vector<TensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    updates.push_back({ResourceData(inputs, vars, Inputs::kVars, i),
                       ResourceData(inputs, vars, Inputs::kAccums, i),
                       ResourceData(inputs, vars, Inputs::kAccumUpdates, i),
                       ctx->input(inputs.at(Inputs::kGrads, i)).data(),
                       vars.tensor(inputs.at(Inputs::kVars, i))->NumElements(),
                       ResourceData(inputs, vars, Inputs::kAverages, i),
                       ResourceData(inputs, vars, Inputs::kGradAccums, i)});
    const tensorflow::Tensor& var = *vars.tensor(inputs.at(Inputs::kVars, i));
    updates.back().row_elements =
        RowElements(var.dims() > 0 ? var.dim_size(0) : 1, var.NumElements());
  }
  return updates;
}

inline std::vector<NormInput> NormInputsOf(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                                           const LockedVariables& vars) {
  std::vector<NormInput> norms;
  norms.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const tensorflow::Tensor& grad = ctx->input(inputs.at(Inputs::kGrads, i));
    norms.push_back(
        {grad.data(), ResourceData(inputs, vars, Inputs::kGradAccums, i), grad.NumElements()});
  }
  return norms;
}

inline std::vector<SparseTensorUpdate> SparseUpdatesOf(tensorflow::OpKernelContext* ctx,
                                                       const Inputs& inputs,
                                                       const LockedVariables& vars) {
  std::vector<SparseTensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const tensorflow::Tensor& var = *vars.tensor(inputs.at(Inputs::kVars, i));
    const int64_t rows = var.dim_size(0);
    updates.push_back({ResourceData(inputs, vars, Inputs::kVars, i),
                       ResourceData(inputs, vars, Inputs::kAccums, i),
                       ResourceData(inputs, vars, Inputs::kAccumUpdates, i),
                       ctx->input(inputs.at(Inputs::kGrads, i)).data(),
                       ctx->input(inputs.at(Inputs::kIndices, i)).data(),
                       static_cast<int64_t*>(ResourceData(inputs, vars, Inputs::kClocks, i)), rows,
                       RowElements(rows, var.NumElements()),
                       ctx->input(inputs.at(Inputs::kIndices, i)).NumElements()});
  }
  return updates;
}

// The error for an index that is out of range.
inline absl::Status OutOfRange(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                               const BadIndex& bad) {
  const int var = inputs.at(Inputs::kVars, static_cast<int>(bad.variable));
  return absl::InvalidArgumentError(
      absl::StrCat(bad.Describe(), " ('", tensorflow::HandleFromInput(ctx, var).name(), "')"));
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_CALLS_H_
