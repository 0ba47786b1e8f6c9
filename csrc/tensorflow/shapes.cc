#include "tensorflow/shapes.h"

#include "absl/strings/str_cat.h"

namespace tf_adadelta {
namespace {

using tensorflow::TensorShape;

absl::Status Mismatch(const std::string& what, const TensorShape& shape,
                      const TensorShape& expected, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrCat(what, " has shape ", shape.DebugString(),
                                                 ", expected ", expected.DebugString(), ", ", why));
}

}  // namespace

absl::Status CheckShapes(const Inputs& inputs, const std::function<const TensorShape&(int)>& shape,
                         const std::function<std::string(int)>& describe) {
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const TensorShape& var = shape(inputs.var(i));
    const auto name = [&] { return describe(inputs.var(i)); };
    const auto like_var = [&](int input) {
      return shape(input) == var ? absl::OkStatus()
                                 : Mismatch(describe(input), shape(input), var,
                                            absl::StrCat("the shape of ", name()));
    };
    TF_RETURN_IF_ERROR(like_var(inputs.accum(i)));
    TF_RETURN_IF_ERROR(like_var(inputs.accum_update(i)));
    if (!inputs.has_indices()) {
      TF_RETURN_IF_ERROR(like_var(inputs.grad(i)));
      continue;
    }
    if (var.dims() == 0) {
      return absl::InvalidArgumentError(absl::StrCat(name(), " is a scalar, which has no rows"));
    }
    const TensorShape& indices = shape(inputs.indices(i));
    if (indices.dims() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(describe(inputs.indices(i)), " has shape ",
                                                     indices.DebugString(),
                                                     ", expected one dimension"));
    }
    TensorShape grad = var;
    grad.set_dim(0, indices.dim_size(0));
    if (shape(inputs.grad(i)) != grad) {
      return Mismatch(describe(inputs.grad(i)), shape(inputs.grad(i)), grad,
                      absl::StrCat("a row of ", name(), " for each of its indices"));
    }
    if (!inputs.has_clocks()) continue;
    const TensorShape clock({var.dim_size(0) + 1});
    if (shape(inputs.clock(i)) != clock) {
      return Mismatch(describe(inputs.clock(i)), shape(inputs.clock(i)), clock,
                      absl::StrCat("one more than the rows of ", name()));
    }
  }
  for (const int input : {inputs.learning_rate(), inputs.rho(), inputs.epsilon()}) {
    if (shape(input).dims() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          describe(input), " has shape ", shape(input).DebugString(), ", expected a scalar"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckNumClocks(int num_variables, int num_clocks) {
  if (num_clocks == 0 || num_clocks == num_variables) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("clocks has length ", num_clocks,
                                                 ", expected none or ", num_variables,
                                                 ", one for each variable"));
}

}  // namespace tf_adadelta
