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

// What only a variable with a sparse gradient has.
absl::Status CheckSparseShapes(const Inputs& inputs, int i,
                               const std::function<const TensorShape&(int)>& shape,
                               const std::function<std::string(int)>& describe) {
  const TensorShape& var = shape(inputs.at(Inputs::kVars, i));
  const auto name = [&] { return describe(inputs.at(Inputs::kVars, i)); };
  if (var.dims() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(name(), " is a scalar, which has no rows"));
  }
  const int indices = inputs.at(Inputs::kIndices, i);
  if (shape(indices).dims() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(describe(indices), " has shape ",
                                                   shape(indices).DebugString(),
                                                   ", expected one dimension"));
  }
  TensorShape grad = var;
  grad.set_dim(0, shape(indices).dim_size(0));
  if (shape(inputs.at(Inputs::kGrads, i)) != grad) {
    return Mismatch(describe(inputs.at(Inputs::kGrads, i)), shape(inputs.at(Inputs::kGrads, i)),
                    grad, absl::StrCat("a row of ", name(), " for each of its indices"));
  }
  const TensorShape clock({var.dim_size(0) + 1});
  if (inputs.has(Inputs::kClocks) && shape(inputs.at(Inputs::kClocks, i)) != clock) {
    return Mismatch(describe(inputs.at(Inputs::kClocks, i)), shape(inputs.at(Inputs::kClocks, i)),
                    clock, absl::StrCat("one more than the rows of ", name()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckShapes(const Inputs& inputs, const std::function<const TensorShape&(int)>& shape,
                         const std::function<std::string(int)>& describe) {
  const Inputs::List first = inputs.has(Inputs::kVars) ? Inputs::kVars : Inputs::kGrads;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const TensorShape& expected = shape(inputs.at(first, i));
    const auto name = [&] { return describe(inputs.at(first, i)); };
    for (const Inputs::List list : {Inputs::kAccums, Inputs::kAccumUpdates, Inputs::kAverages,
                                    Inputs::kGradAccums, Inputs::kGrads}) {
      if (!inputs.has(list)) continue;
      if (list == Inputs::kGrads && inputs.has(Inputs::kIndices)) continue;
      const int input = inputs.at(list, i);
      if (shape(input) != expected) {
        return Mismatch(describe(input), shape(input), expected,
                        absl::StrCat("the shape of ", name()));
      }
    }
    if (inputs.has(Inputs::kIndices)) {
      TF_RETURN_IF_ERROR(CheckSparseShapes(inputs, i, shape, describe));
    }
  }
  for (int input = inputs.at(Inputs::kLearningRate); input < inputs.size(); ++input) {
    const TensorShape expected = inputs.ListOf(input) == Inputs::kClipFactors
                                     ? TensorShape({inputs.num_variables()})
                                     : TensorShape();
    if (shape(input) == expected) continue;
    if (expected.dims() > 0) {
      return Mismatch(describe(input), shape(input), expected, "one for each variable");
    }
    return absl::InvalidArgumentError(absl::StrCat(
        describe(input), " has shape ", shape(input).DebugString(), ", expected a scalar"));
  }
  return absl::OkStatus();
}

}  // namespace tf_adadelta
