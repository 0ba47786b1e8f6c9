// The ops as TensorFlow's graph sees them: inputs, attributes, and the shapes that fit.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/inputs.h"
#include "tensorflow/shapes.h"

namespace tf_adadelta {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The shape of the variable behind the handle `input`, unknown where the graph does not say.
absl::Status VariableShape(InferenceContext* c, int input, tensorflow::DataType dtype,
                           const Inputs& inputs, ShapeHandle* shape) {
  *shape = c->UnknownShape();
  const auto* const handle = c->input_handle_shapes_and_types(input);
  if (handle == nullptr || handle->empty()) return absl::OkStatus();
  if ((*handle)[0].dtype != tensorflow::DT_INVALID && (*handle)[0].dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        inputs.Describe(input), " has dtype ", tensorflow::DataTypeString((*handle)[0].dtype),
        ", expected ", tensorflow::DataTypeString(dtype),
        inputs.IsClock(input) ? "" : ", the dtype of the gradients"));
  }
  *shape = (*handle)[0].shape;
  return absl::OkStatus();
}

// Merges the shape of `input` with what is known of it; what they are both `why` it must be.
absl::Status Merge(InferenceContext* c, const Inputs& inputs, int input, ShapeHandle shape,
                   const char* why, ShapeHandle* expected) {
  ShapeHandle merged;
  if (!c->Merge(*expected, shape, &merged).ok()) {
    return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                   c->DebugString(shape), ", expected ",
                                                   c->DebugString(*expected), why));
  }
  *expected = merged;
  return absl::OkStatus();
}

constexpr char kLikeVariable[] = ", the shape of its variable";

// Checks the variable `i` against its two averages; returns what is known of their shape.
absl::Status VariablesShape(InferenceContext* c, const Inputs& inputs, int i,
                            tensorflow::DataType dtype, ShapeHandle* expected) {
  TF_RETURN_IF_ERROR(VariableShape(c, inputs.var(i), dtype, inputs, expected));
  for (const int input : {inputs.accum(i), inputs.accum_update(i)}) {
    ShapeHandle shape;
    TF_RETURN_IF_ERROR(VariableShape(c, input, dtype, inputs, &shape));
    TF_RETURN_IF_ERROR(Merge(c, inputs, input, shape, kLikeVariable, expected));
  }
  return absl::OkStatus();
}

absl::Status ScalarShapes(InferenceContext* c, const Inputs& inputs) {
  for (const int input : {inputs.learning_rate(), inputs.rho(), inputs.epsilon()}) {
    ShapeHandle scalar;
    if (!c->WithRank(c->input(input), 0, &scalar).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                     c->DebugString(c->input(input)),
                                                     ", expected a scalar"));
    }
  }
  return absl::OkStatus();
}

absl::Status DenseShape(InferenceContext* c) {
  int n;
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  const Inputs inputs = Inputs::Dense(n);
  for (int i = 0; i < n; ++i) {
    ShapeHandle expected;
    TF_RETURN_IF_ERROR(VariablesShape(c, inputs, i, dtype, &expected));
    TF_RETURN_IF_ERROR(
        Merge(c, inputs, inputs.grad(i), c->input(inputs.grad(i)), kLikeVariable, &expected));
  }
  return ScalarShapes(c, inputs);
}

absl::Status SparseShape(InferenceContext* c) {
  int n, num_clocks;
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(c->GetAttr("num_clocks", &num_clocks));
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(CheckNumClocks(n, num_clocks));
  const Inputs inputs = Inputs::Sparse(n, num_clocks > 0);
  for (int i = 0; i < n; ++i) {
    ShapeHandle var;
    TF_RETURN_IF_ERROR(VariablesShape(c, inputs, i, dtype, &var));
    if (c->RankKnown(var) && c->Rank(var) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(inputs.Describe(inputs.var(i)), " is a scalar, which has no rows"));
    }
    ShapeHandle indices;
    if (!c->WithRank(c->input(inputs.indices(i)), 1, &indices).ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(inputs.Describe(inputs.indices(i)), " has shape ",
                       c->DebugString(c->input(inputs.indices(i))), ", expected one dimension"));
    }
    if (c->RankKnown(var)) {
      ShapeHandle expected;
      TF_RETURN_IF_ERROR(c->ReplaceDim(var, 0, c->Dim(indices, 0), &expected));
      TF_RETURN_IF_ERROR(Merge(c, inputs, inputs.grad(i), c->input(inputs.grad(i)),
                               ", a row of its variable for each of its indices", &expected));
    }
    if (num_clocks > 0) {
      ShapeHandle clock;
      TF_RETURN_IF_ERROR(VariableShape(c, inputs.clock(i), tensorflow::DT_INT64, inputs, &clock));
      tensorflow::shape_inference::DimensionHandle entries = c->UnknownDim();
      if (c->RankKnown(var)) TF_RETURN_IF_ERROR(c->Add(c->Dim(var, 0), 1, &entries));
      ShapeHandle expected = c->Vector(entries);
      TF_RETURN_IF_ERROR(Merge(c, inputs, inputs.clock(i), clock,
                               ", one more than the rows of its variable", &expected));
    }
  }
  return ScalarShapes(c, inputs);
}

}  // namespace

// The hyperparameters are double whatever T is: 1 - rho is then exact to the last bit of the type
// that the step is computed in.
REGISTER_OP("FusedAdadeltaApply")
    .Input("vars: N * resource")
    .Input("accums: N * resource")
    .Input("accum_updates: N * resource")
    .Input("grads: N * T")
    .Input("learning_rate: double")
    .Input("rho: double")
    .Input("epsilon: double")
    .Attr("N: int >= 1")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("use_locking: bool = false")
    .SetIsStateful()
    .SetShapeFn(DenseShape)
    .Doc(R"doc(
Updates a list of variables by the Adadelta rule, in one pass over memory.

accum = rho * accum + (1 - rho) * grad ** 2
delta = grad * sqrt(accum_update + epsilon) / sqrt(accum + epsilon)
accum_update = rho * accum_update + (1 - rho) * delta ** 2
var = var - learning_rate * delta

Nothing is written unless every variable of the list can be.

use_locking: Accepted for symmetry with ResourceApplyAdadelta. A dense update of resource variables
  holds the locks of all of them either way, in the order of their addresses.
)doc");

REGISTER_OP("FusedAdadeltaSparseApply")
    .Input("vars: N * resource")
    .Input("accums: N * resource")
    .Input("accum_updates: N * resource")
    .Input("clocks: num_clocks * resource")
    .Input("grads: N * T")
    .Input("indices: N * Tindices")
    .Input("learning_rate: double")
    .Input("rho: double")
    .Input("epsilon: double")
    .Attr("N: int >= 1")
    .Attr("num_clocks: int >= 0")
    .Attr("T: {half, bfloat16, float, double}")
    .Attr("Tindices: {int32, int64}")
    .Attr("use_locking: bool = false")
    .SetIsStateful()
    .SetShapeFn(SparseShape)
    .Doc(R"doc(
Updates the rows of a list of variables that have a gradient, by the rule of FusedAdadeltaApply.

Rows of a gradient with the same index are summed first, in their order. Nothing is written unless
every variable of the list can be and every index is that of a row.

clocks: None: only the rows that have a gradient change, as in ResourceSparseApplyAdadelta. One for
  each variable: the result is that of the dense update with zeros for the other rows, whose
  averages then decay too. The decay of a row is put off until it has a gradient again; its clock
  tells how far it has fallen behind. A clock is an int64 variable with an element for each row, the
  count of updates that the row has caught up with, and one more, the count of updates of the
  variable. rho must be the same as long as a row is behind.
use_locking: As in FusedAdadeltaApply.
)doc");

}  // namespace tf_adadelta
