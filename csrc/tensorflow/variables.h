// The resource variables of one call: found, locked, checked, and only then made writable.
#ifndef TF_ADADELTA_TENSORFLOW_VARIABLES_H_
#define TF_ADADELTA_TENSORFLOW_VARIABLES_H_

#include <vector>

#include "absl/status/status.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/inputs.h"

namespace tf_adadelta {

class LockedVariables {
 public:
  ~LockedVariables();

  // Finds the variables of the call, locks them in the order of their addresses, the order that
  // every TensorFlow kernel keeps, and checks that each is initialised, of type `dtype` (a clock:
  // int64), and that all shapes fit.
  absl::Status LockAndValidate(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                               tensorflow::DataType dtype);

  tensorflow::Tensor* tensor(int input) const { return vars_[input]->tensor(); }

 private:
  absl::Status FindAndLock(tensorflow::OpKernelContext* ctx, const Inputs& inputs);
  absl::Status Validate(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                        tensorflow::DataType dtype) const;

  std::vector<tensorflow::core::RefCountPtr<tensorflow::Var>> vars_;
  std::vector<tensorflow::Var*> locked_;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_VARIABLES_H_
