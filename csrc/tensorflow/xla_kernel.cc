// The ops under XLA: one in-place custom call where there is a handler for it; for dense gradients
// HLO on any other platform, and on the CPU where the whole list is small.
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
#include "tensorflow/inputs.h"
#include "tensorflow/shapes.h"
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
    const tensorflow::DataType type = inputs.IsClock(input) ? tensorflow::DT_INT64 : dtype;
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

// Calls the kernel on the buffers of the variables themselves: result i is operand i. Returns the
// new values of the resource inputs.
std::vector<XlaOp> EmitCustomCall(XlaOpKernelContext* ctx, const char* target, const Inputs& inputs,
                                  const Operands& operands) {
  std::vector<xla::Shape> operand_shapes;
  operand_shapes.reserve(inputs.size());
  for (int input = 0; input < inputs.size(); ++input) {
    // Row-major, whatever layout the producer of a gradient prefers.
    operand_shapes.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
        operands.types[input], operands.shapes[input].dim_sizes()));
  }
  std::vector<xla::Shape> result_shapes(operand_shapes.begin(),
                                        operand_shapes.begin() + inputs.num_resources());
  std::vector<std::pair<xla::ShapeIndex, std::pair<int64_t, xla::ShapeIndex>>> aliasing;
  aliasing.reserve(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) {
    aliasing.push_back({{input}, {input, {}}});
  }
  const XlaOp call = xla::CustomCallWithLayout(
      ctx->builder(), target, operands.values, xla::ShapeUtil::MakeTupleShape(result_shapes),
      operand_shapes, /*opaque=*/"",
      /*has_side_effect=*/false, aliasing, /*literal=*/nullptr,
      xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
  std::vector<XlaOp> results;
  results.reserve(inputs.num_resources());
  for (int input = 0; input < inputs.num_resources(); ++input) {
    results.push_back(xla::GetTupleElement(call, input));
  }
  return results;
}

std::vector<XlaOp> EmitHlo(const Inputs& inputs, const Operands& operands) {
  const xla::PrimitiveType type = operands.types[inputs.var(0)];
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

int64_t NumElements(const Inputs& inputs, const Operands& operands) {
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
  // On the GPU one launch, where HLO would become a kernel for every few variables.
  return !OnDevice(ctx, "XLA_CPU_JIT") || NumElements(inputs, operands) >= kSmallestCustomCall;
}

class FusedXlaOp : public tensorflow::XlaOpKernel {
 public:
  explicit FusedXlaOp(tensorflow::OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("N", &num_variables_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype_));
  }

 protected:
  int num_variables() const { return num_variables_; }

  absl::Status Read(XlaOpKernelContext* ctx, const Inputs& inputs, Operands* operands) const {
    return ReadOperands(ctx, inputs, dtype_, operands);
  }

  absl::Status Assign(XlaOpKernelContext* ctx, const Inputs& inputs,
                      const std::vector<XlaOp>& results) const {
    for (int input = 0; input < inputs.num_resources(); ++input) {
      TF_RETURN_IF_ERROR(ctx->AssignVariable(
          input, inputs.IsClock(input) ? tensorflow::DT_INT64 : dtype_, results[input]));
    }
    return absl::OkStatus();
  }

 private:
  int num_variables_;
  tensorflow::DataType dtype_;
};

class FusedAdadeltaApplyXlaOp : public FusedXlaOp {
 public:
  using FusedXlaOp::FusedXlaOp;

  void Compile(XlaOpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Dense(num_variables());
    Operands operands;
    OP_REQUIRES_OK(ctx, Read(ctx, inputs, &operands));
    OP_REQUIRES_OK(ctx, Assign(ctx, inputs,
                               WantsCustomCall(ctx, inputs, operands)
                                   ? EmitCustomCall(ctx, kDenseCustomCall, inputs, operands)
                                   : EmitHlo(inputs, operands)));
  }
};

class FusedAdadeltaSparseApplyXlaOp : public FusedXlaOp {
 public:
  explicit FusedAdadeltaSparseApplyXlaOp(tensorflow::OpKernelConstruction* ctx) : FusedXlaOp(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_clocks", &num_clocks_));
    OP_REQUIRES_OK(ctx, CheckNumClocks(num_variables(), num_clocks_));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    OP_REQUIRES(ctx, HasHandler(ctx),
                absl::UnimplementedError(absl::StrCat(
                    "tf_adadelta was built without what FusedAdadeltaSparseApply needs on ",
                    ctx->compiler()->options().device_type.type_string(),
                    "; `python -m tf_adadelta` says why and how to rebuild it")));
    const Inputs inputs = Inputs::Sparse(num_variables(), num_clocks_ > 0);
    Operands operands;
    OP_REQUIRES_OK(ctx, Read(ctx, inputs, &operands));
    OP_REQUIRES_OK(ctx,
                   Assign(ctx, inputs, EmitCustomCall(ctx, kSparseCustomCall, inputs, operands)));
  }

 private:
  int num_clocks_;
};

// Not REGISTER_XLA_OP: TensorFlow turns that registry into kernels once, at the first compilation
// of the process, and a library loaded later would never be seen.
#define REGISTER_KERNEL(device)                                                                \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaApply").Device(device), FusedAdadeltaApplyXlaOp); \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaSparseApply").Device(device),                     \
                          FusedAdadeltaSparseApplyXlaOp)
REGISTER_KERNEL("XLA_CPU_JIT");
REGISTER_KERNEL("XLA_GPU_JIT");
#undef REGISTER_KERNEL

}  // namespace
}  // namespace tf_adadelta
