// The ops as TensorFlow's graph sees them: inputs, attributes, and the shapes that fit.
#include <optional>

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/inputs.h"
#include "tensorflow/layouts.h"

namespace tf_adadelta {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

// The shape of the variable behind the handle `input`, unknown where the graph does not say.
absl::Status VariableShape(InferenceContext* c, int input, tensorflow::DataType grad_dtype,
                           const Inputs& inputs, ShapeHandle* shape) {
  const Inputs::List list = inputs.ListOf(input);
  const tensorflow::DataType dtype = ResourceType(inputs, list, grad_dtype);
  *shape = c->UnknownShape();
  const auto* const handle = c->input_handle_shapes_and_types(input);
  if (handle == nullptr || handle->empty()) return absl::OkStatus();
  // A SavedModel holds float accumulators for those in bfloat16, and need not run its training
  // step.
  const bool is_exported = dtype != grad_dtype && list != Inputs::kClocks;
  if (!is_exported && (*handle)[0].dtype != tensorflow::DT_INVALID && (*handle)[0].dtype != dtype) {
    return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has dtype ",
                                                   tensorflow::DataTypeString((*handle)[0].dtype),
                                                   ", expected ", tensorflow::DataTypeString(dtype),
                                                   WhyResourceType(inputs, list, grad_dtype)));
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

// Checks what is stored for the variable `i`; returns what is known of its shape.
absl::Status ResourceShapes(InferenceContext* c, const Inputs& inputs, int i,
                            tensorflow::DataType dtype, ShapeHandle* expected) {
  *expected = c->UnknownShape();
  for (const Inputs::List list : {Inputs::kVars, Inputs::kAccums, Inputs::kAccumUpdates,
                                  Inputs::kAverages, Inputs::kGradAccums}) {
    if (!inputs.has(list)) continue;
    const int input = inputs.at(list, i);
    ShapeHandle shape;
    TF_RETURN_IF_ERROR(VariableShape(c, input, dtype, inputs, &shape));
    // That of blocks is checked when the op runs.
    if (ResourceType(inputs, list, dtype) == tensorflow::DT_UINT8) continue;
    TF_RETURN_IF_ERROR(Merge(c, inputs, input, shape, kLikeVariable, expected));
  }
  return absl::OkStatus();
}

absl::Status ScalarShapes(InferenceContext* c, const Inputs& inputs) {
  for (int input = inputs.at(Inputs::kLearningRate); input < inputs.size(); ++input) {
    if (Inputs::IsVector(inputs.ListOf(input))) {
      ShapeHandle expected = c->Vector(inputs.num_variables());
      TF_RETURN_IF_ERROR(
          Merge(c, inputs, input, c->input(input), ", one for each variable", &expected));
      continue;
    }
    ShapeHandle scalar;
    if (!c->WithRank(c->input(input), 0, &scalar).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                     c->DebugString(c->input(input)),
                                                     ", expected a scalar"));
    }
  }
  return absl::OkStatus();
}

// Checks what an op has of dense gradients and variables.
absl::Status DenseShapes(InferenceContext* c, const Inputs& inputs) {
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  for (int i = 0; i < inputs.num_variables(); ++i) {
    ShapeHandle expected;
    TF_RETURN_IF_ERROR(ResourceShapes(c, inputs, i, dtype, &expected));
    const int grad = inputs.at(Inputs::kGrads, i);
    TF_RETURN_IF_ERROR(Merge(c, inputs, grad, c->input(grad), kLikeVariable, &expected));
  }
  return ScalarShapes(c, inputs);
}

absl::Status DenseShape(InferenceContext* c) {
  std::optional<Inputs> inputs;
  TF_RETURN_IF_ERROR(GetDenseLayout(c, &inputs));
  return DenseShapes(c, *inputs);
}

absl::Status NormsShape(InferenceContext* c) {
  std::optional<Inputs> inputs;
  TF_RETURN_IF_ERROR(GetNormsLayout(c, &inputs));
  TF_RETURN_IF_ERROR(DenseShapes(c, *inputs));
  c->set_output(0, c->Vector(inputs->num_variables()));
  return absl::OkStatus();
}

absl::Status SparseShape(InferenceContext* c) {
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  std::optional<Inputs> layout;
  TF_RETURN_IF_ERROR(GetSparseLayout(c, &layout));
  const Inputs& inputs = *layout;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    ShapeHandle var;
    TF_RETURN_IF_ERROR(ResourceShapes(c, inputs, i, dtype, &var));
    if (c->RankKnown(var) && c->Rank(var) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(inputs.at(Inputs::kVars, i)),
                                                     " is a scalar, which has no rows"));
    }
    ShapeHandle indices;
    if (!c->WithRank(c->input(inputs.at(Inputs::kIndices, i)), 1, &indices).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(
          inputs.Describe(inputs.at(Inputs::kIndices, i)), " has shape ",
          c->DebugString(c->input(inputs.at(Inputs::kIndices, i))), ", expected one dimension"));
    }
    if (c->RankKnown(var)) {
      ShapeHandle expected;
      TF_RETURN_IF_ERROR(c->ReplaceDim(var, 0, c->Dim(indices, 0), &expected));
      TF_RETURN_IF_ERROR(Merge(c, inputs, inputs.at(Inputs::kGrads, i),
                               c->input(inputs.at(Inputs::kGrads, i)),
                               ", a row of its variable for each of its indices", &expected));
    }
    if (inputs.has(Inputs::kClocks)) {
      ShapeHandle clock;
      TF_RETURN_IF_ERROR(VariableShape(c, inputs.at(Inputs::kClocks, i), dtype, inputs, &clock));
      tensorflow::shape_inference::DimensionHandle entries = c->UnknownDim();
      if (c->RankKnown(var)) TF_RETURN_IF_ERROR(c->Add(c->Dim(var, 0), 1, &entries));
      ShapeHandle expected = c->Vector(entries);
      TF_RETURN_IF_ERROR(Merge(c, inputs, inputs.at(Inputs::kClocks, i), clock,
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
    .Input("averages: num_averages * resource")
    .Input("grad_accums: num_grad_accums * resource")
    .Input("grads: N * T")
    .Input("learning_rate: double")
    .Input("rho: double")
    .Input("epsilon: double")
    .Input("options: num_options * double")
    .Input("random: num_random * int64")
    .Attr("N: int >= 1")
    .Attr("num_averages: int >= 0")
    .Attr("num_grad_accums: int >= 0")
    .Attr("num_options: int >= 0")
    .Attr("num_random: int >= 0 = 0")
    .Attr("state: {bfloat16, uint8} = DT_BFLOAT16")
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

averages: None, or one for each variable: its exponential moving average.
grad_accums: None, or one for each variable: the sum of its gradients since the last update.
options: None, or six: grad_scale, update, clip_factors, clipvalue, weight_decay and ema_momentum,
  for what is done around the update in the same pass. clip_factors has an element for each
  variable; the others are scalars, update 0 or 1. 1, 1, ones, the largest double (or infinity), 0
  and 0 change nothing.

  grad = grad_accum + grad_scale * grad (grad_accum is 0 where there is none)
  if update:
    grad_accum = 0
    grad = clip(clip_factor * grad, -clipvalue, clipvalue)
    var = var - learning_rate * weight_decay * var
    and the update
  else:
    grad_accum = grad
  average = ema_momentum * average + (1 - ema_momentum) * var
random: None: what is stored is rounded to the nearest. Two: step and random_seeds. With T = bfloat16
  it is rounded stochastically, by bits that depend on the seed of the variable, of which
  random_seeds has one for each, on the step and on the place of the element alone. With T = float
  accums and accum_updates are bfloat16, or what `state` says, and rounded so; everything else is
  float.
state: With T = float and random: bfloat16, or uint8: accums and accum_updates are in 8 bits, with a
  scale for each 256 elements of a row: of the shape [rows, row_elements + row_elements / 256,
  rounded up] for a variable of the shape [rows, ...], a scalar being a row (csrc/block_codes.h).
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
    .Input("random: num_random * int64")
    .Attr("N: int >= 1")
    .Attr("num_clocks: int >= 0")
    .Attr("num_random: int >= 0 = 0")
    .Attr("state: {bfloat16, uint8} = DT_BFLOAT16")
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
random: As in FusedAdadeltaApply.
state: As in FusedAdadeltaApply.
use_locking: As in FusedAdadeltaApply.
)doc");

REGISTER_OP("FusedSquaredNorms")
    .Input("grad_accums: num_grad_accums * resource")
    .Input("grads: N * T")
    .Input("grad_scale: double")
    .Input("update: double")
    .Output("squared_norms: double")
    .Attr("N: int >= 1")
    .Attr("num_grad_accums: int >= 0")
    .Attr("T: {half, bfloat16, float, double}")
    .SetIsStateful()
    .SetShapeFn(NormsShape)
    .Doc(R"doc(
Computes the squared norm of grad_accum + grad_scale * grad for each gradient of a list.

One pass over memory; the sums are in double, and of the same order on every run.

grad_accums: None (0), or one for each gradient.
update: 0: nobody asks for the norms in this step; they are 0.
squared_norms: An element for each gradient.
)doc");

}  // namespace tf_adadelta
