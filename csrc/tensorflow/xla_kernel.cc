// FusedAdadeltaApply under XLA: one in-place custom call where there is a handler for it, HLO on
// any other platform and on the CPU where the whole list is small.
#include <algorithm>
#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "adadelta.h"
#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/dense_inputs.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

// Found by argument-dependent lookup in adadelta.h.
namespace xla {
static XlaOp sqrt(XlaOp x) { return Sqrt(x); }
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
};

absl::Status ReadOperands(XlaOpKernelContext* ctx, const DenseInputs& inputs,
                          tensorflow::DataType dtype, Operands* operands) {
  operands->values.resize(inputs.size());
  operands->shapes.resize(inputs.size());
  std::vector<tensorflow::XlaResource*> resources(inputs.num_resources());
  for (int input = 0; input < inputs.size(); ++input) {
    if (input >= inputs.num_resources()) {
      operands->values[input] = ctx->Input(input);
      TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(input));
      TF_RETURN_IF_ERROR(tensorflow::XLAShapeToTensorShape(shape, &operands->shapes[input]));
      continue;
    }
    TF_RETURN_IF_ERROR(ctx->GetResourceInput(input, &resources[input]));
    const auto twice = std::find(resources.begin(), resources.begin() + input, resources[input]);
    if (twice != resources.begin() + input) {
      return absl::InvalidArgumentError(absl::StrCat(
          inputs.Describe(input), " ('", resources[input]->name(), "') is the same variable as ",
          inputs.Describe(twice - resources.begin()), ", expected each variable of a call once"));
    }
    const absl::Status status =
        ctx->ReadVariableInput(input, dtype, &operands->shapes[input], &operands->values[input]);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(inputs.Describe(input), " ('", resources[input]->name(),
                                       "'): ", status.message()));
    }
  }
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const TensorShape& expected = operands->shapes[inputs.var(i)];
    for (const int input : {inputs.accum(i), inputs.accum_update(i), inputs.grad(i)}) {
      if (operands->shapes[input] != expected) {
        return absl::InvalidArgumentError(absl::StrCat(
            inputs.Describe(input), " has shape ", operands->shapes[input].DebugString(),
            ", expected ", expected.DebugString(), ", the shape of ",
            inputs.Describe(inputs.var(i)), " ('", resources[inputs.var(i)]->name(), "')"));
      }
    }
  }
  for (int input = inputs.learning_rate(); input < inputs.size(); ++input) {
    if (operands->shapes[input].dims() != 0) {
      return absl::InvalidArgumentError(absl::StrCat(inputs.Describe(input), " has shape ",
                                                     operands->shapes[input].DebugString(),
                                                     ", expected a scalar"));
    }
  }
  return absl::OkStatus();
}

// Calls the kernel on the buffers of the variables themselves: result i is operand i. Returns the
// new values of the resource inputs.
absl::StatusOr<std::vector<XlaOp>> EmitCustomCall(XlaOpKernelContext* ctx,
                                                  const DenseInputs& inputs,
                                                  xla::PrimitiveType type,
                                                  const Operands& operands) {
  std::vector<xla::Shape> operand_shapes;
  operand_shapes.reserve(inputs.size());
  for (int input = 0; input < inputs.size(); ++input) {
    // Row-major, whatever layout the producer of a gradient prefers.
    operand_shapes.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
        input < inputs.learning_rate() ? type : xla::F64, operands.shapes[input].dim_sizes()));
  }
  std::vector<xla::Shape> result_shapes(operand_shapes.begin(),
                                        operand_shapes.begin() + inputs.num_resources());
  std::vector<std::pair<xla::ShapeIndex, std::pair<int64_t, xla::ShapeIndex>>> aliasing;
  aliasing.reserve(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) {
    aliasing.push_back({{input}, {input, {}}});
  }
  const XlaOp call = xla::CustomCallWithLayout(
      ctx->builder(), kDenseCustomCall, operands.values,
      xla::ShapeUtil::MakeTupleShape(result_shapes), operand_shapes, /*opaque=*/"",
      /*has_side_effect=*/false, aliasing, /*literal=*/nullptr,
      xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  std::vector<XlaOp> results;
  results.reserve(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) {
    results.push_back(xla::GetTupleElement(call, input));
  }
  return results;
}

std::vector<XlaOp> EmitHlo(const DenseInputs& inputs, xla::PrimitiveType type,
                           const Operands& operands) {
  const xla::PrimitiveType compute = type == xla::F64 ? xla::F64 : xla::F32;
  const auto converted = [&](int input) {
    return xla::ConvertElementType(operands.values[input], compute);
  };
  const XlaOp rho = operands.values[inputs.rho()];
  const Scalars<XlaOp> scalars = {
      converted(inputs.learning_rate()), converted(inputs.rho()),
      xla::ConvertElementType(xla::ConstantR0(rho.builder(), 1.0) - rho, compute),
      converted(inputs.epsilon())};
  std::vector<XlaOp> results(inputs.num_resources());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    XlaOp var = converted(inputs.var(i));
    XlaOp accum = converted(inputs.accum(i));
    XlaOp accum_update = converted(inputs.accum_update(i));
    const XlaOp normalized_grad =
        AccumulateGradient<XlaOp>(scalars, converted(inputs.grad(i)), accum);
    ApplyUpdate<XlaOp>(scalars, normalized_grad, var, accum_update);
    results[inputs.var(i)] = xla::ConvertElementType(var, type);
    results[inputs.accum(i)] = xla::ConvertElementType(accum, type);
    results[inputs.accum_update(i)] = xla::ConvertElementType(accum_update, type);
  }
  return results;
}

// On the CPU, below this many elements a custom call costs more than it saves: XLA's own loops are
// as fast as ours there, and the call itself takes 0.4 to 4 microseconds (docs/design.md).
constexpr int64_t kSmallestCustomCall = 4096;

int64_t NumElements(const DenseInputs& inputs, const Operands& operands) {
  int64_t elements = 0;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    elements += operands.shapes[inputs.var(i)].num_elements();
  }
  return elements;
}

// TF_ADADELTA_XLA_HLO=1 takes the HLO on the CPU too, so that it can be tested without a GPU.
bool HloForced() {
  const char* const value = std::getenv("TF_ADADELTA_XLA_HLO");
  return value != nullptr && std::string(value) == "1";
}

bool WantsCustomCall(XlaOpKernelContext* ctx, const DenseInputs& inputs, const Operands& operands) {
  if (HloForced()) return false;
  const std::string& device = ctx->compiler()->options().device_type.type_string();
  if (device == "XLA_CPU_JIT") return NumElements(inputs, operands) >= kSmallestCustomCall;
#if defined(TF_ADADELTA_CUDA)
  // One launch, where HLO would become a kernel for every few variables.
  if (device == "XLA_GPU_JIT") return true;
#endif
  return false;
}

class FusedAdadeltaApplyXlaOp : public tensorflow::XlaOpKernel {
 public:
  explicit FusedAdadeltaApplyXlaOp(tensorflow::OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype_));
    OP_REQUIRES_OK(ctx, tensorflow::DataTypeToPrimitiveType(dtype_, &type_));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    const DenseInputs inputs((ctx->num_inputs() - 3) / 4);
    Operands operands;
    OP_REQUIRES_OK(ctx, ReadOperands(ctx, inputs, dtype_, &operands));
    const absl::StatusOr<std::vector<XlaOp>> results =
        WantsCustomCall(ctx, inputs, operands) ? EmitCustomCall(ctx, inputs, type_, operands)
                                               : EmitHlo(inputs, type_, operands);
    OP_REQUIRES_OK(ctx, results.status());
    for (int input = 0; input < inputs.num_resources(); ++input) {
      OP_REQUIRES_OK(ctx, ctx->AssignVariable(input, dtype_, (*results)[input]));
    }
  }

 private:
  tensorflow::DataType dtype_;
  xla::PrimitiveType type_;
};

// Not REGISTER_XLA_OP: TensorFlow turns that registry into kernels once, at the first compilation
// of the process, and a library loaded later would never be seen.
REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaApply").Device("XLA_CPU_JIT"), FusedAdadeltaApplyXlaOp);
REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaApply").Device("XLA_GPU_JIT"), FusedAdadeltaApplyXlaOp);

}  // namespace
}  // namespace tf_adadelta
