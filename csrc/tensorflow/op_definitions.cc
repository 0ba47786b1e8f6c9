// The ops as TensorFlow's graph sees them: inputs, attributes, and the shapes that fit.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/dense_inputs.h"

namespace tf_adadelta {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The shape of the variable behind the handle `input`, unknown where the graph does not say.
absl::Status VariableShape(InferenceContext* c, int input, tensorflow::DataType dtype,
                           const DenseInputs& inputs, ShapeHandle* shape) {
  *shape = c->UnknownShape();
  const auto* const handle = c->input_handle_shapes_and_types(input);
  if (handle == nullptr || handle->empty()) return absl::OkStatus();
  if ((*handle)[0].dtype != tensorflow::DT_INVALID && (*handle)[0].dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(
        inputs.Describe(input), " has dtype ", tensorflow::DataTypeString((*handle)[0].dtype),
        ", expected ", tensorflow::DataTypeString(dtype), ", the dtype of the gradients"));
  }
  *shape = (*handle)[0].shape;
  return absl::OkStatus();
}

absl::Status DenseShape(InferenceContext* c) {
  int n;
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("N", &n));
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  const DenseInputs inputs(n);
  for (int i = 0; i < n; ++i) {
    ShapeHandle expected;
    TF_RETURN_IF_ERROR(VariableShape(c, inputs.var(i), dtype, inputs, &expected));
    for (const int input : {inputs.accum(i), inputs.accum_update(i), inputs.grad(i)}) {
      ShapeHandle shape = c->input(input);
      if (input != inputs.grad(i)) {
        TF_RETURN_IF_ERROR(VariableShape(c, input, dtype, inputs, &shape));
      }
      ShapeHandle merged;
      if (!c->Merge(expected, shape, &merged).ok()) {
        return absl::InvalidArgumentError(
            absl::StrCat(inputs.Describe(input), " has shape ", c->DebugString(shape),
                         ", expected ", c->DebugString(expected), ", the shape of its variable"));
      }
      expected = merged;
    }
  }
  for (int input = inputs.learning_rate(); input < inputs.size(); ++input) {
    ShapeHandle scalar;
    if (!c->WithRank(c->input(input), 0, &scalar).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                     c->DebugString(c->input(input)),
                                                     ", expected a scalar"));
    }
  }
  return absl::OkStatus();
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

}  // namespace tf_adadelta
