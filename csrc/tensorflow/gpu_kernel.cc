// FusedAdadeltaApply on the GPU: TensorFlow's variables and stream, handed to the kernel.
//
// Every input but the handles is in device memory, the hyperparameters too: reading one on the host
// would wait for the GPU at every step.
#include <string>
#include <vector>

#include "cuda/dense.h"
#include "tensorflow/calls.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/dtype.h"
#include "tensorflow/inputs.h"
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

template <typename T>
class FusedAdadeltaApplyGpuOp : public tensorflow::OpKernel {
 public:
  explicit FusedAdadeltaApplyGpuOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

  void Compute(OpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Dense((ctx->num_inputs() - Inputs::kNumScalars) / 4);
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.FindAndLock(ctx, inputs));
    OP_REQUIRES_OK(ctx, vars.Validate(ctx, inputs, tensorflow::DataTypeToEnum<T>::value));

    const cuda::Stream stream = {
        ctx->op_device_context()->stream()->platform_specific_handle().stream};
    OP_REQUIRES_OK(ctx, Unshare(ctx, inputs, vars, stream));
    const auto scalar = [&](int input) {
      return cuda::Scalar{static_cast<const double*>(ctx->input(input).data()), 0.0};
    };
    const cuda::DeviceHyperparameters hyperparameters = {
        scalar(inputs.learning_rate()), scalar(inputs.rho()), scalar(inputs.epsilon())};
    OP_REQUIRES_OK(ctx, ToStatus(cuda::DenseUpdate(DTypeOf<T>(), UpdatesOf(ctx, inputs, vars),
                                                   hyperparameters, stream)));
  }
};

// A handle is a value of the host; what it names is on the device.
#define REGISTER_KERNEL(T)                                    \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaApply")          \
                              .Device(tensorflow::DEVICE_GPU) \
                              .HostMemory("vars")             \
                              .HostMemory("accums")           \
                              .HostMemory("accum_updates")    \
                              .TypeConstraint<T>("T"),        \
                          FusedAdadeltaApplyGpuOp<T>)
REGISTER_KERNEL(Eigen::half);
REGISTER_KERNEL(Eigen::bfloat16);
REGISTER_KERNEL(float);
REGISTER_KERNEL(double);
#undef REGISTER_KERNEL

}  // namespace
}  // namespace tf_adadelta
