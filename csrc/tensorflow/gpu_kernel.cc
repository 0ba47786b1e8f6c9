// The ops on the GPU: TensorFlow's variables, stream and memory, handed to the kernels.
//
// Every input but the handles is in device memory, the hyperparameters too: reading one on the host
// would wait for the GPU at every step.
#include <optional>
#include <string>
#include <vector>

#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/sparse.h"
#include "tensorflow/calls.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/dtype.h"
#include "tensorflow/inputs.h"
#include "tensorflow/shapes.h"
#include "tensorflow/variables.h"
#include "xla/stream_executor/stream.h"

namespace tf_adadelta {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

absl::Status ToStatus(const std::string& error) {
  return error.empty() ? absl::OkStatus() : absl::InternalError(error);
}

// Gives each variable whose buffer somebody else still reads a buffer of its own, by the rule of
// TensorFlow's PrepareToUpdateVariable, whose copy on the GPU is not exported.
absl::Status Unshare(OpKernelContext* ctx, const Inputs& inputs, const LockedVariables& vars,
                     const cuda::Stream& stream) {
  tensorflow::AllocatorAttributes attributes;
  attributes.set_gpu_compatible(true);
  attributes.set_nic_compatible(true);
  for (int input = 0; input < inputs.num_resources(); ++input) {
    Tensor* const tensor = vars.tensor(input);
    if (tensor->NumElements() == 0 || tensor->RefCountIsOne()) continue;
    Tensor copy;
    TF_RETURN_IF_ERROR(ctx->allocate_temp(tensor->dtype(), tensor->shape(), &copy, attributes));
    TF_RETURN_IF_ERROR(
        ToStatus(cuda::Copy(copy.data(), tensor->data(), tensor->TotalBytes(), stream)));
    *tensor = copy;
  }
  return absl::OkStatus();
}

cuda::Stream StreamOf(OpKernelContext* ctx) {
  return {ctx->op_device_context()->stream()->platform_specific_handle().stream};
}

// Makes the variables of a call ready to be written, like Prepare of the CPU's kernels.
absl::Status Prepare(OpKernelContext* ctx, const Inputs& inputs, tensorflow::DataType dtype,
                     const cuda::Stream& stream, LockedVariables* vars) {
  TF_RETURN_IF_ERROR(vars->FindAndLock(ctx, inputs));
  TF_RETURN_IF_ERROR(vars->Validate(ctx, inputs, dtype));
  return Unshare(ctx, inputs, *vars, stream);
}

cuda::DeviceHyperparameters HyperparametersOf(OpKernelContext* ctx, const Inputs& inputs) {
  const auto scalar = [&](int input) {
    return cuda::Scalar{static_cast<const double*>(ctx->input(input).data()), 0.0};
  };
  return {scalar(inputs.at(Inputs::kLearningRate)), scalar(inputs.at(Inputs::kRho)),
          scalar(inputs.at(Inputs::kEpsilon))};
}

template <typename T>
class FusedAdadeltaApplyGpuOp : public tensorflow::OpKernel {
 public:
  explicit FusedAdadeltaApplyGpuOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

  void Compute(OpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Dense((ctx->num_inputs() - Inputs::kNumScalars) / 4);
    const cuda::Stream stream = StreamOf(ctx);
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, Prepare(ctx, inputs, tensorflow::DataTypeToEnum<T>::value, stream, &vars));
    OP_REQUIRES_OK(ctx, ToStatus(cuda::DenseUpdate(DTypeOf<T>(), UpdatesOf(ctx, inputs, vars),
                                                   HyperparametersOf(ctx, inputs), stream)));
  }
};

template <typename T, typename Index>
class FusedAdadeltaSparseApplyGpuOp : public tensorflow::OpKernel {
 public:
  explicit FusedAdadeltaSparseApplyGpuOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("N", &num_variables_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_clocks", &num_clocks_));
    OP_REQUIRES_OK(ctx, CheckNumClocks(num_variables_, num_clocks_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Sparse(num_variables_, num_clocks_ > 0);
    const cuda::Stream stream = StreamOf(ctx);
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, Prepare(ctx, inputs, tensorflow::DataTypeToEnum<T>::value, stream, &vars));
    const std::vector<SparseTensorUpdate> updates = SparseUpdatesOf(ctx, inputs, vars);
    // TensorFlow gives freed memory only to what comes later on the same stream.
    std::vector<Tensor> memory;
    absl::Status allocated;
    const auto allocate = [&](size_t bytes) -> void* {
      allocated = ctx->allocate_temp(tensorflow::DT_UINT8,
                                     tensorflow::TensorShape({static_cast<int64_t>(bytes)}),
                                     &memory.emplace_back());
      return allocated.ok() ? memory.back().data() : nullptr;
    };
    if (cuda::IndicesAreChecked()) {
      std::optional<BadIndex> bad;
      const std::string error = cuda::FindBadIndex(kIndexType, updates, allocate, stream, &bad);
      OP_REQUIRES_OK(ctx, allocated);
      OP_REQUIRES_OK(ctx, ToStatus(error));
      OP_REQUIRES(ctx, !bad, OutOfRange(ctx, inputs, *bad));
    }
    const std::string error = cuda::SparseUpdate(DTypeOf<T>(), kIndexType, updates,
                                                 HyperparametersOf(ctx, inputs), allocate, stream);
    OP_REQUIRES_OK(ctx, allocated);
    OP_REQUIRES_OK(ctx, ToStatus(error));
  }

 private:
  static constexpr IndexType kIndexType = IndexTypeOf<Index>();

  int num_variables_;
  int num_clocks_;
};

// A handle is a value of the host; what it names is on the device.
#define ON_GPU(op)                    \
  Name(op)                            \
      .Device(tensorflow::DEVICE_GPU) \
      .HostMemory("vars")             \
      .HostMemory("accums")           \
      .HostMemory("accum_updates")
#define REGISTER_SPARSE_KERNEL(T, Index)                          \
  REGISTER_KERNEL_BUILDER(ON_GPU("FusedAdadeltaSparseApply")      \
                              .HostMemory("clocks")               \
                              .TypeConstraint<T>("T")             \
                              .TypeConstraint<Index>("Tindices"), \
                          FusedAdadeltaSparseApplyGpuOp<T, Index>)
#define REGISTER_KERNEL(T)                                                     \
  REGISTER_KERNEL_BUILDER(ON_GPU("FusedAdadeltaApply").TypeConstraint<T>("T"), \
                          FusedAdadeltaApplyGpuOp<T>);                         \
  REGISTER_SPARSE_KERNEL(T, int32_t);                                          \
  REGISTER_SPARSE_KERNEL(T, int64_t)
REGISTER_KERNEL(Eigen::half);
REGISTER_KERNEL(Eigen::bfloat16);
REGISTER_KERNEL(float);
REGISTER_KERNEL(double);
#undef REGISTER_KERNEL
#undef REGISTER_SPARSE_KERNEL
#undef ON_GPU

}  // namespace
}  // namespace tf_adadelta
