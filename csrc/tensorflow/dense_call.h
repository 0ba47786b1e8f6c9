// What the kernels of FusedAdadeltaApply have in common, wherever they run.
#ifndef TF_ADADELTA_TENSORFLOW_DENSE_CALL_H_
#define TF_ADADELTA_TENSORFLOW_DENSE_CALL_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "tensor_update.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/dense_inputs.h"
#include "tensorflow/variables.h"

namespace tf_adadelta {

inline absl::Status CheckScalars(tensorflow::OpKernelContext* ctx, const DenseInputs& inputs) {
  for (int input = inputs.learning_rate(); input < inputs.size(); ++input) {
    const tensorflow::TensorShape& shape = ctx->input(input).shape();
    if (!tensorflow::TensorShapeUtils::IsScalar(shape)) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                     shape.DebugString(), ", expected a scalar"));
    }
  }
  return absl::OkStatus();
}

inline std::vector<TensorUpdate> UpdatesOf(tensorflow::OpKernelContext* ctx,
                                           const DenseInputs& inputs, const LockedVariables& vars) {
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

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_DENSE_CALL_H_
