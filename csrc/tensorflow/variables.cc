#include "tensorflow/variables.h"

#include <algorithm>
#include <functional>
#include <string>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/layouts.h"
#include "tensorflow/shapes.h"

namespace tf_adadelta {
namespace {

using tensorflow::Tensor;
using tensorflow::Var;

// Such as "accums[2] ('dense/kernel')".
std::string DescribeVariable(tensorflow::OpKernelContext* ctx, const Inputs& inputs, int input) {
  return absl::StrCat(inputs.Describe(input), " ('", tensorflow::HandleFromInput(ctx, input).name(),
                      "')");
}

}  // namespace

LockedVariables::~LockedVariables() {
  for (Var* var : locked_) var->mu()->unlock();
}

absl::Status LockedVariables::LockAndValidate(tensorflow::OpKernelContext* ctx,
                                              const Inputs& inputs, tensorflow::DataType dtype) {
  TF_RETURN_IF_ERROR(FindAndLock(ctx, inputs));
  return Validate(ctx, inputs, dtype);
}

absl::Status LockedVariables::FindAndLock(tensorflow::OpKernelContext* ctx, const Inputs& inputs) {
  vars_.resize(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) {
    const absl::Status status =
        tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, input), &vars_[input]);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(DescribeVariable(ctx, inputs, input),
                                       " is not an initialized variable: ", status.message()));
    }
  }

  // Handles of one variable name one Var: equal neighbours are one variable, passed twice.
  std::vector<int> order(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) order[input] = input;
  std::sort(order.begin(), order.end(),
            [this](int a, int b) { return std::less<>()(vars_[a]->mu(), vars_[b]->mu()); });
  const auto twice = std::adjacent_find(order.begin(), order.end(), [this](int a, int b) {
    return vars_[a].get() == vars_[b].get();
  });
  if (twice != order.end()) {
    const auto [first, second] = std::minmax(twice[0], twice[1]);
    return absl::InvalidArgumentError(
        absl::StrCat(DescribeVariable(ctx, inputs, second), " is the same variable as ",
                     inputs.Describe(first), ", expected each variable of a call once"));
  }

  locked_.reserve(order.size());
  for (const int input : order) {
    vars_[input]->mu()->lock();
    locked_.push_back(vars_[input].get());
  }
  return absl::OkStatus();
}

absl::Status LockedVariables::Validate(tensorflow::OpKernelContext* ctx, const Inputs& inputs,
                                       tensorflow::DataType dtype) const {
  for (int input = 0; input < inputs.num_resources(); ++input) {
    const Var& var = *vars_[input];
    const Tensor& value = *vars_[input]->tensor();
    if (!var.is_initialized || !value.IsInitialized()) {
      return absl::FailedPreconditionError(
          absl::StrCat(DescribeVariable(ctx, inputs, input), " is not initialized"));
    }
    const Inputs::List list = inputs.ListOf(input);
    const tensorflow::DataType expected = ResourceType(inputs, list, dtype);
    if (value.dtype() != expected) {
      return absl::InvalidArgumentError(
          absl::StrCat(DescribeVariable(ctx, inputs, input), " has dtype ",
                       tensorflow::DataTypeString(value.dtype()), ", expected ",
                       tensorflow::DataTypeString(expected), WhyResourceType(inputs, list, dtype)));
    }
  }
  return CheckShapes(
      inputs,
      [&](int input) -> const tensorflow::TensorShape& {
        return input < inputs.num_resources() ? vars_[input]->tensor()->shape()
                                              : ctx->input(input).shape();
      },
      [&](int input) {
        return input < inputs.num_resources() ? DescribeVariable(ctx, inputs, input)
                                              : inputs.Describe(input);
      });
}

}  // namespace tf_adadelta
