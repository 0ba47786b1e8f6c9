// The ops under XLA: one in-place custom call where there is a handler for it; for dense gradients
// HLO on any other platform, and on the CPU where the whole list is small.
#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "adadelta.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/inputs.h"
#include "tensorflow/layouts.h"
#include "tensorflow/shapes.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/hlo/builder/lib/arithmetic.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/lib/slicing.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

// Found by argument-dependent lookup in adadelta.h.
namespace xla {
static XlaOp sqrt(XlaOp x) { return Sqrt(x); }
// Not xla::Clamp, nor Min and Max: TensorFlow 2.20 loses values there that are not numbers.
static XlaOp Clamp(XlaOp limit, XlaOp value) {
  return Select(Lt(value, -limit), -limit, Select(Gt(value, limit), limit, value));
}
}  // namespace xla

namespace tf_adadelta {
namespace {

using tensorflow::TensorShape;
using tensorflow::XlaOpKernelContext;
using xla::XlaOp;

// The values of the call, in the order of its inputs.
struct Operands {
  std::vector<XlaOp> values;
  std::vector<TensorShape> shapes;
  std::vector<xla::PrimitiveType> types;
};

absl::Status ReadOperands(XlaOpKernelContext* ctx, const Inputs& inputs, tensorflow::DataType dtype,
                          Operands* operands) {
  operands->values.resize(inputs.size());
  operands->shapes.resize(inputs.size());
  operands->types.resize(inputs.size());
  std::vector<tensorflow::XlaResource*> resources(inputs.num_resources());
  const auto describe = [&](int input) {
    return input < inputs.num_resources()
               ? absl::StrCat(inputs.Describe(input), " ('", resources[input]->name(), "')")
               : inputs.Describe(input);
  };
  for (int input = 0; input < inputs.size(); ++input) {
    TensorShape& shape = operands->shapes[input];
    if (input >= inputs.num_resources()) {
      operands->values[input] = ctx->Input(input);
      TF_ASSIGN_OR_RETURN(const xla::Shape xla_shape, ctx->InputXlaShape(input));
      TF_RETURN_IF_ERROR(tensorflow::XLAShapeToTensorShape(xla_shape, &shape));
      operands->types[input] = xla_shape.element_type();
      continue;
    }
    TF_RETURN_IF_ERROR(ctx->GetResourceInput(input, &resources[input]));
    const auto twice = std::find(resources.begin(), resources.begin() + input, resources[input]);
    if (twice != resources.begin() + input) {
      return absl::InvalidArgumentError(absl::StrCat(describe(input), " is the same variable as ",
                                                     inputs.Describe(twice - resources.begin()),
                                                     ", expected each variable of a call once"));
    }
    const tensorflow::DataType type = ResourceType(inputs, inputs.ListOf(input), dtype);
    TF_RETURN_IF_ERROR(tensorflow::DataTypeToPrimitiveType(type, &operands->types[input]));
    const absl::Status status =
        ctx->ReadVariableInput(input, type, &shape, &operands->values[input]);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat(describe(input), ": ", status.message()));
    }
  }
  return CheckShapes(
      inputs, [&](int input) -> const TensorShape& { return operands->shapes[input]; }, describe);
}

// The attributes of the custom call, as MLIR writes them.
std::string AttributesOf(const Inputs& inputs) {
  return absl::StrCat("{", kSizesAttribute, " = array<i64: ", absl::StrJoin(inputs.sizes(), ", "),
                      ">}");
}

// Row-major, whatever layout the producer of a gradient prefers.
std::vector<xla::Shape> RowMajorShapes(const Inputs& inputs, const Operands& operands) {
  std::vector<xla::Shape> shapes;
  shapes.reserve(inputs.size());
  for (int input = 0; input < inputs.size(); ++input) {
    shapes.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
        operands.types[input], operands.shapes[input].dim_sizes()));
  }
  return shapes;
}

using Aliasing = std::vector<std::pair<xla::ShapeIndex, std::pair<int64_t, xla::ShapeIndex>>>;

XlaOp EmitCall(XlaOpKernelContext* ctx, const char* target, const Inputs& inputs,
               const Operands& operands, const xla::Shape& result, const Aliasing& aliasing) {
  return xla::CustomCallWithLayout(
      ctx->builder(), target, operands.values, result, RowMajorShapes(inputs, operands),
      AttributesOf(inputs), /*has_side_effect=*/false, aliasing, /*literal=*/nullptr,
      xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
}

// A part of a call: some of its variables.
struct Part {
  Inputs inputs;
  Operands operands;
  std::vector<int> positions;  // Of its inputs among those of the whole.
};

// XLA's passes take time in proportion to a higher power of the number of operands: for 400
// variables in one call 5 seconds, in calls of so many 0.3 (docs/design.md).
constexpr int kVariablesPerCall = 64;

std::vector<Part> SplitCall(const Inputs& inputs, const Operands& operands) {
  std::vector<Part> parts;
  const int n = inputs.num_variables();
  // But one call checks the indices of all variables before it writes to any.
  const int per_call = inputs.has(Inputs::kIndices) ? n : kVariablesPerCall;
  for (int begin = 0; begin < n; begin += per_call) {
    const int end = std::min(begin + per_call, n);
    Inputs::Sizes sizes = inputs.sizes();
    for (int list = 0; list < Inputs::kLearningRate; ++list) {
      sizes[list] = std::min(sizes[list], end - begin);
    }
    Part& part = parts.emplace_back(Part{Inputs(sizes), {}, {}});
    for (int input = 0; input < part.inputs.size(); ++input) {
      const Inputs::List list = part.inputs.ListOf(input);
      const int i = input - part.inputs.at(list);
      const bool scalar = list >= Inputs::kLearningRate;
      const int position = inputs.at(list, scalar ? i : begin + i);
      part.positions.push_back(position);
      part.operands.values.push_back(operands.values[position]);
      part.operands.shapes.push_back(operands.shapes[position]);
      part.operands.types.push_back(operands.types[position]);
      if (Inputs::IsVector(list)) {
        part.operands.values.back() = xla::SliceInDim(operands.values[position], begin, end,
                                                      /*stride=*/1, /*dimno=*/0);
        part.operands.shapes.back() = TensorShape({end - begin});
      }
    }
  }
  return parts;
}

// Calls the kernel on the buffers of the variables themselves: result i is operand i. Returns the
// new values of the resource inputs.
std::vector<XlaOp> EmitUpdateCalls(XlaOpKernelContext* ctx, const char* target,
                                   const Inputs& inputs, const Operands& operands) {
  std::vector<XlaOp> results(inputs.num_resources());
  for (const Part& part : SplitCall(inputs, operands)) {
    std::vector<xla::Shape> result_shapes = RowMajorShapes(part.inputs, part.operands);
    result_shapes.resize(part.inputs.num_resources());
    Aliasing aliasing;
    for (int input = 0; input < part.inputs.num_resources(); ++input) {
      aliasing.push_back({{input}, {input, {}}});
    }
    const XlaOp call = EmitCall(ctx, target, part.inputs, part.operands,
                                xla::ShapeUtil::MakeTupleShape(result_shapes), aliasing);
    for (int input = 0; input < part.inputs.num_resources(); ++input) {
      results[part.positions[input]] = xla::GetTupleElement(call, input);
    }
  }
  return results;
}

XlaOp EmitNormsCalls(XlaOpKernelContext* ctx, const Inputs& inputs, const Operands& operands) {
  std::vector<XlaOp> norms;
  for (const Part& part : SplitCall(inputs, operands)) {
    norms.push_back(EmitCall(ctx, kNormsCustomCall, part.inputs, part.operands,
                             xla::ShapeUtil::MakeShape(xla::F64, {part.inputs.num_variables()}),
                             {}));
  }
  return xla::ConcatInDim(ctx->builder(), norms, 0);
}

// Operands as the arithmetic takes them.
class Converter {
 public:
  Converter(const Inputs& inputs, const Operands& operands, xla::PrimitiveType type)
      : inputs_(inputs), operands_(operands), type_(type) {}

  XlaOp operator()(Inputs::List list, int i = 0) const {
    return xla::ConvertElementType(operands_.values[inputs_.at(list, i)], type_);
  }

  // The difference of one and a scalar.
  XlaOp OneMinus(Inputs::List list) const {
    const XlaOp scalar = operands_.values[inputs_.at(list)];
    return xla::ConvertElementType(xla::ConstantR0(scalar.builder(), 1.0) - scalar, type_);
  }

  // The largest magnitude of a gradient, infinite where there is none.
  XlaOp Clipvalue() const {
    const XlaOp scalar = operands_.values[inputs_.at(Inputs::kClipvalue)];
    const XlaOp none = xla::ConstantR0(scalar.builder(), kNoClipvalue);
    const XlaOp infinity = xla::ConstantR0(scalar.builder(), kInfinity<double>);
    return xla::ConvertElementType(xla::Select(xla::Lt(scalar, none), scalar, infinity), type_);
  }

 private:
  const Inputs& inputs_;
  const Operands& operands_;
  xla::PrimitiveType type_;
};

// The values of the variable `i` and of what is stored for it, for each list, after the step.
struct NewValues {
  XlaOp& operator[](Inputs::List list) { return values[list]; }

  XlaOp values[Inputs::kNumLists];
};

// What is done around the update of the variable `i`, and the update itself.
void EmitWithOptions(const Inputs& inputs, const Converter& converted,
                     const Scalars<XlaOp>& scalars, int i, const std::vector<int64_t>& dims,
                     NewValues& now) {
  const XlaOp factor = xla::Reshape(
      xla::SliceInDim(converted(Inputs::kClipFactors), i, i + 1, /*stride=*/1, /*dimno=*/0), {});
  const OptionScalars<XlaOp> o = {
      converted(Inputs::kGradScale),   factor,
      converted.Clipvalue(),           converted(Inputs::kWeightDecay) * scalars.learning_rate,
      converted(Inputs::kEmaMomentum), converted.OneMinus(Inputs::kEmaMomentum),
  };
  const auto where = [&](XlaOp condition, XlaOp yes, XlaOp no) {
    return xla::Select(xla::Broadcast(condition, dims), yes, no);
  };
  const XlaOp zero = xla::ZerosLike(o.grad_scale);
  const XlaOp zeros = xla::ZerosLike(now[Inputs::kVars]);
  const NewValues before = now;
  XlaOp grad =
      AddGradient<XlaOp>(o, converted(Inputs::kGrads, i),
                         inputs.has(Inputs::kGradAccums) ? now[Inputs::kGradAccums] : zeros);
  now[Inputs::kGradAccums] = zeros;
  const XlaOp accumulated = grad;
  grad = ClipGradient<XlaOp>(o, grad);
  XlaOp& var = now[Inputs::kVars];
  var = where(xla::Ne(o.variable_loss, zero), DecayVariable<XlaOp>(o, var), var);
  const XlaOp normalized_grad = AccumulateGradient<XlaOp>(scalars, grad, now[Inputs::kAccums]);
  var = MoveVariable<XlaOp>(
      scalars, AccumulateUpdate<XlaOp>(scalars, normalized_grad, now[Inputs::kAccumUpdates]), var);
  if (inputs.has(Inputs::kGradAccums)) {
    const XlaOp update = xla::Ne(converted(Inputs::kUpdate), zero);
    for (const Inputs::List list : {Inputs::kVars, Inputs::kAccums, Inputs::kAccumUpdates}) {
      now[list] = where(update, now[list], before.values[list]);
    }
    now[Inputs::kGradAccums] = where(update, zeros, accumulated);
  }
  if (inputs.has(Inputs::kAverages)) {
    now[Inputs::kAverages] = Average<XlaOp>(o, var, now[Inputs::kAverages]);
  }
}

std::vector<XlaOp> EmitUpdateHlo(const Inputs& inputs, const Operands& operands) {
  const xla::PrimitiveType type = operands.types[inputs.at(Inputs::kVars)];
  const Converter converted(inputs, operands, type == xla::F64 ? xla::F64 : xla::F32);
  const Scalars<XlaOp> scalars = {converted(Inputs::kLearningRate), converted(Inputs::kRho),
                                  converted.OneMinus(Inputs::kRho), converted(Inputs::kEpsilon)};
  std::vector<XlaOp> results(inputs.num_resources());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    NewValues now;
    const auto for_each_list = [&](const auto& visit) {
      for (int list = 0; list < Inputs::kGrads; ++list) {
        if (inputs.has(static_cast<Inputs::List>(list))) visit(static_cast<Inputs::List>(list));
      }
    };
    for_each_list([&](Inputs::List list) { now[list] = converted(list, i); });
    if (inputs.has(Inputs::kGradScale)) {
      const auto dims = operands.shapes[inputs.at(Inputs::kVars, i)].dim_sizes();
      EmitWithOptions(inputs, converted, scalars, i, {dims.begin(), dims.end()}, now);
    } else {
      const XlaOp normalized_grad =
          AccumulateGradient<XlaOp>(scalars, converted(Inputs::kGrads, i), now[Inputs::kAccums]);
      const XlaOp delta =
          AccumulateUpdate<XlaOp>(scalars, normalized_grad, now[Inputs::kAccumUpdates]);
      now[Inputs::kVars] = MoveVariable<XlaOp>(scalars, delta, now[Inputs::kVars]);
    }
    for_each_list([&](Inputs::List list) {
      results[inputs.at(list, i)] = xla::ConvertElementType(now[list], type);
    });
  }
  return results;
}

XlaOp EmitNormsHlo(XlaOpKernelContext* ctx, const Inputs& inputs, const Operands& operands) {
  const Converter converted(inputs, operands, xla::F64);
  const XlaOp zero = xla::ConstantR0(ctx->builder(), 0.0);
  const xla::XlaComputation add = xla::CreateScalarAddComputation(xla::F64, ctx->builder());
  std::vector<XlaOp> norms;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    XlaOp grad = converted(Inputs::kGradScale) * converted(Inputs::kGrads, i);
    if (inputs.has(Inputs::kGradAccums)) grad = grad + converted(Inputs::kGradAccums, i);
    norms.push_back(xla::Reshape(xla::ReduceAll(grad * grad, zero, add), {1}));
  }
  const XlaOp all = xla::ConcatInDim(ctx->builder(), norms, 0);
  const XlaOp asked_for =
      xla::Broadcast(xla::Ne(converted(Inputs::kUpdate), zero), {inputs.num_variables()});
  return xla::Select(asked_for, all, xla::ZerosLike(all));
}

// On the CPU, below this many elements a custom call costs more than it saves: XLA's own loops are
// as fast as ours there, and the call itself takes 0.4 to 4 microseconds (docs/design.md).
constexpr int64_t kSmallestCustomCall = 4096;

int64_t NumElements(const Inputs& inputs, const Operands& operands) {
  int64_t elements = 0;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    elements += operands.shapes[inputs.at(Inputs::kGrads, i)].num_elements();
  }
  return elements;
}

// TF_ADADELTA_XLA_HLO=1 takes the HLO on the CPU too, so that it can be tested without a GPU.
bool HloForced() {
  const char* const value = std::getenv("TF_ADADELTA_XLA_HLO");
  return value != nullptr && std::string(value) == "1";
}

bool OnDevice(XlaOpKernelContext* ctx, const char* device) {
  return ctx->compiler()->options().device_type.type_string() == device;
}

// Whether there is a handler of the custom calls for the device.
bool HasHandler(XlaOpKernelContext* ctx) {
#if defined(TF_ADADELTA_CUDA)
  if (OnDevice(ctx, "XLA_GPU_JIT")) return true;
#endif
  return OnDevice(ctx, "XLA_CPU_JIT");
}

bool WantsCustomCall(XlaOpKernelContext* ctx, const Inputs& inputs, const Operands& operands) {
  if (HloForced() || !HasHandler(ctx)) return false;
  // On the GPU a launch for a call, where HLO would become a kernel for every few variables.
  return !OnDevice(ctx, "XLA_CPU_JIT") || inputs.has(Inputs::kRandomSeeds) ||
         NumElements(inputs, operands) >= kSmallestCustomCall;
}

class FusedXlaOp : public tensorflow::XlaOpKernel {
 public:
  explicit FusedXlaOp(tensorflow::OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype_));
  }

 protected:
  const Inputs& inputs() const { return *inputs_; }

  absl::Status Read(XlaOpKernelContext* ctx, Operands* operands) const {
    return ReadOperands(ctx, inputs(), dtype_, operands);
  }

  absl::Status Assign(XlaOpKernelContext* ctx, const std::vector<XlaOp>& results) const {
    for (int input = 0; input < inputs().num_resources(); ++input) {
      const tensorflow::DataType type = ResourceType(inputs(), inputs().ListOf(input), dtype_);
      TF_RETURN_IF_ERROR(ctx->AssignVariable(input, type, results[input]));
    }
    return absl::OkStatus();
  }

  std::optional<Inputs> inputs_;

 private:
  tensorflow::DataType dtype_;
};

class FusedAdadeltaApplyXlaOp : public FusedXlaOp {
 public:
  explicit FusedAdadeltaApplyXlaOp(tensorflow::OpKernelConstruction* ctx) : FusedXlaOp(ctx) {
    OP_REQUIRES_OK(ctx, GetDenseLayout(ctx, &inputs_));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    Operands operands;
    OP_REQUIRES_OK(ctx, Read(ctx, &operands));
    const bool call = WantsCustomCall(ctx, inputs(), operands);
    OP_REQUIRES(
        ctx, call || !inputs().has(Inputs::kRandomSeeds),
        absl::UnimplementedError(absl::StrCat("stochastic rounding has no kernel on ",
                                              ctx->compiler()->options().device_type.type_string(),
                                              "; `python -m tf_adadelta` says what was built")));
    OP_REQUIRES_OK(ctx,
                   Assign(ctx, call ? EmitUpdateCalls(ctx, kDenseCustomCall, inputs(), operands)
                                    : EmitUpdateHlo(inputs(), operands)));
  }
};

class FusedAdadeltaSparseApplyXlaOp : public FusedXlaOp {
 public:
  explicit FusedAdadeltaSparseApplyXlaOp(tensorflow::OpKernelConstruction* ctx) : FusedXlaOp(ctx) {
    OP_REQUIRES_OK(ctx, GetSparseLayout(ctx, &inputs_));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    OP_REQUIRES(ctx, HasHandler(ctx),
                absl::UnimplementedError(absl::StrCat(
                    "tf_adadelta was built without what FusedAdadeltaSparseApply needs on ",
                    ctx->compiler()->options().device_type.type_string(),
                    "; `python -m tf_adadelta` says why and how to rebuild it")));
    Operands operands;
    OP_REQUIRES_OK(ctx, Read(ctx, &operands));
    OP_REQUIRES_OK(ctx, Assign(ctx, EmitUpdateCalls(ctx, kSparseCustomCall, inputs(), operands)));
  }
};

class FusedSquaredNormsXlaOp : public FusedXlaOp {
 public:
  explicit FusedSquaredNormsXlaOp(tensorflow::OpKernelConstruction* ctx) : FusedXlaOp(ctx) {
    OP_REQUIRES_OK(ctx, GetNormsLayout(ctx, &inputs_));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    Operands operands;
    OP_REQUIRES_OK(ctx, Read(ctx, &operands));
    ctx->SetOutput(0, WantsCustomCall(ctx, inputs(), operands)
                          ? EmitNormsCalls(ctx, inputs(), operands)
                          : EmitNormsHlo(ctx, inputs(), operands));
  }
};

// Not REGISTER_XLA_OP: TensorFlow turns that registry into kernels once, at the first compilation
// of the process, and a library loaded later would never be seen.
#define REGISTER_KERNEL(device)                                                                \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaApply").Device(device), FusedAdadeltaApplyXlaOp); \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaSparseApply").Device(device),                     \
                          FusedAdadeltaSparseApplyXlaOp);                                      \
  REGISTER_KERNEL_BUILDER(Name("FusedSquaredNorms").Device(device), FusedSquaredNormsXlaOp)
REGISTER_KERNEL("XLA_CPU_JIT");
REGISTER_KERNEL("XLA_GPU_JIT");
#undef REGISTER_KERNEL

}  // namespace
}  // namespace tf_adadelta
