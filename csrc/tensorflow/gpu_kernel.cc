// The ops on the GPU: TensorFlow's variables, stream and memory, handed to the kernels.
//
// Every input but the handles is in device memory, the scalars too: reading one on the host would
// wait for the GPU at every step.
#include <optional>
#include <string>
#include <vector>

#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/norms.h"
#include "cuda/sparse.h"
#include "tensorflow/calls.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/dtype.h"
#include "tensorflow/inputs.h"
#include "tensorflow/layouts.h"
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

// Makes the variables of a call ready to be written, like the CPU's kernels.
absl::Status Prepare(OpKernelContext* ctx, const Inputs& inputs, tensorflow::DataType dtype,
                     const cuda::Stream& stream, LockedVariables* vars) {
  TF_RETURN_IF_ERROR(vars->LockAndValidate(ctx, inputs, dtype));
  return Unshare(ctx, inputs, *vars, stream);
}

const double* ScalarsOf(OpKernelContext* ctx, const Inputs& inputs, Inputs::List list) {
  return static_cast<const double*>(ctx->input(inputs.at(list)).data());
}

// Null where the call has no such input.
const int64_t* IntegersOf(OpKernelContext* ctx, const Inputs& inputs, Inputs::List list) {
  if (!inputs.has(list)) return nullptr;
  return static_cast<const int64_t*>(ctx->input(inputs.at(list)).data());
}

cuda::Scalar ScalarOf(OpKernelContext* ctx, const Inputs& inputs, Inputs::List list) {
  return {ScalarsOf(ctx, inputs, list), 0.0};
}

cuda::DeviceHyperparameters HyperparametersOf(OpKernelContext* ctx, const Inputs& inputs) {
  return {
      ScalarOf(ctx, inputs, Inputs::kLearningRate),
      ScalarOf(ctx, inputs, Inputs::kRho),
      ScalarOf(ctx, inputs, Inputs::kEpsilon),
      {IntegersOf(ctx, inputs, Inputs::kStep), 0, IntegersOf(ctx, inputs, Inputs::kRandomSeeds)}};
}

std::optional<cuda::DeviceOptions> OptionsOf(OpKernelContext* ctx, const Inputs& inputs) {
  if (!inputs.has(Inputs::kGradScale)) return std::nullopt;
  return cuda::DeviceOptions{
      ScalarOf(ctx, inputs, Inputs::kGradScale),   ScalarOf(ctx, inputs, Inputs::kUpdate),
      ScalarOf(ctx, inputs, Inputs::kClipvalue),   ScalarOf(ctx, inputs, Inputs::kWeightDecay),
      ScalarOf(ctx, inputs, Inputs::kEmaMomentum), ScalarsOf(ctx, inputs, Inputs::kClipFactors)};
}

// The memory that a call works in. TensorFlow gives what is freed only to what comes later on the
// same stream, so it may go when the work is queued.
class Workspace {
 public:
  explicit Workspace(OpKernelContext* ctx) : ctx_(ctx) {}

  cuda::Allocate allocate() {
    return [this](size_t bytes) -> void* {
      status_ = ctx_->allocate_temp(tensorflow::DT_UINT8,
                                    tensorflow::TensorShape({static_cast<int64_t>(bytes)}),
                                    &memory_.emplace_back());
      return status_.ok() ? memory_.back().data() : nullptr;
    };
  }

  // Of what was asked for last.
  const absl::Status& status() const { return status_; }

 private:
  OpKernelContext* ctx_;
  std::vector<Tensor> memory_;
  absl::Status status_;
};

class FusedGpuOp : public tensorflow::OpKernel {
 public:
  explicit FusedGpuOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

 protected:
  const Inputs& inputs() const { return *inputs_; }

  std::optional<Inputs> inputs_;
};

template <typename T>
class FusedAdadeltaApplyGpuOp : public FusedGpuOp {
 public:
  explicit FusedAdadeltaApplyGpuOp(tensorflow::OpKernelConstruction* ctx) : FusedGpuOp(ctx) {
    OP_REQUIRES_OK(ctx, GetDenseLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    const cuda::Stream stream = StreamOf(ctx);
    LockedVariables vars;
    OP_REQUIRES_OK(ctx,
                   Prepare(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value, stream, &vars));
    const std::optional<cuda::DeviceOptions> options = OptionsOf(ctx, inputs());
    OP_REQUIRES_OK(ctx,
                   ToStatus(cuda::DenseUpdate(
                       StorageOf(DTypeOf<T>(), inputs()), UpdatesOf(ctx, inputs(), vars),
                       HyperparametersOf(ctx, inputs()), options ? &*options : nullptr, stream)));
  }
};

template <typename T, typename Index>
class FusedAdadeltaSparseApplyGpuOp : public FusedGpuOp {
 public:
  explicit FusedAdadeltaSparseApplyGpuOp(tensorflow::OpKernelConstruction* ctx) : FusedGpuOp(ctx) {
    OP_REQUIRES_OK(ctx, GetSparseLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    constexpr IndexType kIndexType = IndexTypeOf<Index>();
    const cuda::Stream stream = StreamOf(ctx);
    LockedVariables vars;
    OP_REQUIRES_OK(ctx,
                   Prepare(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value, stream, &vars));
    const std::vector<SparseTensorUpdate> updates = SparseUpdatesOf(ctx, inputs(), vars);
    Workspace workspace(ctx);
    if (cuda::IndicesAreChecked()) {
      std::optional<BadIndex> bad;
      const std::string error =
          cuda::FindBadIndex(kIndexType, updates, workspace.allocate(), stream, &bad);
      OP_REQUIRES_OK(ctx, workspace.status());
      OP_REQUIRES_OK(ctx, ToStatus(error));
      OP_REQUIRES(ctx, !bad, OutOfRange(ctx, inputs(), *bad));
    }
    const std::string error =
        cuda::SparseUpdate(StorageOf(DTypeOf<T>(), inputs()), kIndexType, updates,
                           HyperparametersOf(ctx, inputs()), workspace.allocate(), stream);
    OP_REQUIRES_OK(ctx, workspace.status());
    OP_REQUIRES_OK(ctx, ToStatus(error));
  }
};

template <typename T>
class FusedSquaredNormsGpuOp : public FusedGpuOp {
 public:
  explicit FusedSquaredNormsGpuOp(tensorflow::OpKernelConstruction* ctx) : FusedGpuOp(ctx) {
    OP_REQUIRES_OK(ctx, GetNormsLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.LockAndValidate(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value));
    Tensor* squared_norms;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {inputs().num_variables()}, &squared_norms));
    Workspace workspace(ctx);
    const std::string error = cuda::SquaredNorms(
        DTypeOf<T>(), NormInputsOf(ctx, inputs(), vars),
        ScalarOf(ctx, inputs(), Inputs::kGradScale), ScalarOf(ctx, inputs(), Inputs::kUpdate),
        static_cast<double*>(squared_norms->data()), workspace.allocate(), StreamOf(ctx));
    OP_REQUIRES_OK(ctx, workspace.status());
    OP_REQUIRES_OK(ctx, ToStatus(error));
  }
};

// A handle is a value of the host; what it names is on the device.
#define ON_GPU(op) Name(op).Device(tensorflow::DEVICE_GPU)
#define UPDATE_ON_GPU(op) \
  ON_GPU(op).HostMemory("vars").HostMemory("accums").HostMemory("accum_updates")
#define REGISTER_SPARSE_KERNEL(T, Index)                            \
  REGISTER_KERNEL_BUILDER(UPDATE_ON_GPU("FusedAdadeltaSparseApply") \
                              .HostMemory("clocks")                 \
                              .TypeConstraint<T>("T")               \
                              .TypeConstraint<Index>("Tindices"),   \
                          FusedAdadeltaSparseApplyGpuOp<T, Index>)
#define REGISTER_KERNEL(T)                                                          \
  REGISTER_KERNEL_BUILDER(UPDATE_ON_GPU("FusedAdadeltaApply")                       \
                              .HostMemory("averages")                               \
                              .HostMemory("grad_accums")                            \
                              .TypeConstraint<T>("T"),                              \
                          FusedAdadeltaApplyGpuOp<T>);                              \
  REGISTER_KERNEL_BUILDER(                                                          \
      ON_GPU("FusedSquaredNorms").HostMemory("grad_accums").TypeConstraint<T>("T"), \
      FusedSquaredNormsGpuOp<T>);                                                   \
  REGISTER_SPARSE_KERNEL(T, int32_t);                                               \
  REGISTER_SPARSE_KERNEL(T, int64_t)
REGISTER_KERNEL(Eigen::half);
REGISTER_KERNEL(Eigen::bfloat16);
REGISTER_KERNEL(float);
REGISTER_KERNEL(double);
#undef REGISTER_KERNEL
#undef REGISTER_SPARSE_KERNEL
#undef UPDATE_ON_GPU
#undef ON_GPU

}  // namespace
}  // namespace tf_adadelta
