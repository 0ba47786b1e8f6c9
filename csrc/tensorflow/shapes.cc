#include "tensorflow/shapes.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "block_codes.h"
#include "tensor_update.h"

namespace tf_adadelta {
namespace {

using tensorflow::TensorShape;

// What a shape should be. Not a TensorShape, the making of which ends the process where there are
// more elements than an int64 counts: an empty variable may have any dimensions but one.
using Dimensions = std::vector<uint64_t>;

bool Equal(const TensorShape& shape, const Dimensions& expected) {
  const auto sizes = shape.dim_sizes();
  return std::equal(sizes.begin(), sizes.end(), expected.begin(), expected.end(),
                    [](int64_t a, uint64_t b) { return static_cast<uint64_t>(a) == b; });
}

absl::Status Mismatch(const std::string& what, const TensorShape& shape,
                      const std::string& expected, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat(what, " has shape ", shape.DebugString(), ", expected ", expected, ", ", why));
}

absl::Status Mismatch(const std::string& what, const TensorShape& shape, const Dimensions& expected,
                      const std::string& why) {
  return Mismatch(what, shape, absl::StrCat("[", absl::StrJoin(expected, ","), "]"), why);
}

// The shape of an accumulator in blocks.
TensorShape ShapeOfBlocks(const TensorShape& var) {
  const int64_t rows = var.dims() > 0 ? var.dim_size(0) : 1;
  return TensorShape({rows, BytesOfRow(RowElements(rows, var.num_elements()))});
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
  const auto sizes = var.dim_sizes();
  Dimensions grad(sizes.begin(), sizes.end());
  grad[0] = shape(indices).dim_size(0);
  if (!Equal(shape(inputs.at(Inputs::kGrads, i)), grad)) {
    return Mismatch(describe(inputs.at(Inputs::kGrads, i)), shape(inputs.at(Inputs::kGrads, i)),
                    grad, absl::StrCat("a row of ", name(), " for each of its indices"));
  }
  const Dimensions clock = {static_cast<uint64_t>(var.dim_size(0)) + 1};
  if (inputs.has(Inputs::kClocks) && !Equal(shape(inputs.at(Inputs::kClocks, i)), clock)) {
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
    const TensorShape& var = shape(inputs.at(first, i));
    const auto name = [&] { return describe(inputs.at(first, i)); };
    std::optional<TensorShape> blocks;
    if (inputs.has_blocks()) blocks = ShapeOfBlocks(var);
    for (const Inputs::List list : {Inputs::kAccums, Inputs::kAccumUpdates, Inputs::kAverages,
                                    Inputs::kGradAccums, Inputs::kGrads}) {
      if (!inputs.has(list)) continue;
      if (list == Inputs::kGrads && inputs.has(Inputs::kIndices)) continue;
      const int input = inputs.at(list, i);
      const bool in_blocks = blocks && Inputs::IsState(list);
      const TensorShape& expected = in_blocks ? *blocks : var;
      if (shape(input) != expected) {
        const char* const what = in_blocks ? "rows of blocks for those of " : "the shape of ";
        return Mismatch(describe(input), shape(input), expected.DebugString(),
                        absl::StrCat(what, name()));
      }
    }
    if (inputs.has(Inputs::kIndices)) {
      TF_RETURN_IF_ERROR(CheckSparseShapes(inputs, i, shape, describe));
    }
  }
  for (int input = inputs.at(Inputs::kLearningRate); input < inputs.size(); ++input) {
    const TensorShape expected = Inputs::IsVector(inputs.ListOf(input))
                                     ? TensorShape({inputs.num_variables()})
                                     : TensorShape();
    if (shape(input) == expected) continue;
    if (expected.dims() > 0) {
      return Mismatch(describe(input), shape(input), expected.DebugString(),
                      "one for each variable");
    }
    return absl::InvalidArgumentError(absl::StrCat(
        describe(input), " has shape ", shape(input).DebugString(), ", expected a scalar"));
  }
  return absl::OkStatus();
}

}  // namespace tf_adadelta
