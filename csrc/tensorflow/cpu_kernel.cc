// The ops on the CPU: TensorFlow's variables and threads, handed to the kernel.
#include <optional>
#include <vector>

#include "cpu/dense.h"
#include "cpu/norms.h"
#include "cpu/sparse.h"
#include "tensorflow/calls.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/kernels/training_op_helpers.h"
#include "tensorflow/dtype.h"
#include "tensorflow/inputs.h"
#include "tensorflow/layouts.h"
#include "tensorflow/variables.h"

namespace tf_adadelta {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

Workers WorkersOf(OpKernelContext* ctx) {
  const auto* const threads = ctx->device()->tensorflow_cpu_worker_threads();
  return {threads->num_threads,
          [threads](std::function<void()> task) { threads->workers->Schedule(std::move(task)); }};
}

double ScalarOf(OpKernelContext* ctx, int input) { return ctx->input(input).scalar<double>()(); }

Hyperparameters HyperparametersOf(OpKernelContext* ctx, const Inputs& inputs) {
  return {ScalarOf(ctx, inputs.at(Inputs::kLearningRate)), ScalarOf(ctx, inputs.at(Inputs::kRho)),
          ScalarOf(ctx, inputs.at(Inputs::kEpsilon)),
          inputs.has(Inputs::kStep) ? ctx->input(inputs.at(Inputs::kStep)).scalar<int64_t>()() : 0};
}

const int64_t* SeedsOf(OpKernelContext* ctx, const Inputs& inputs) {
  if (!inputs.has(Inputs::kRandomSeeds)) return nullptr;
  return ctx->input(inputs.at(Inputs::kRandomSeeds)).flat<int64_t>().data();
}

Options OptionsOf(OpKernelContext* ctx, const Inputs& inputs) {
  if (!inputs.has(Inputs::kGradScale)) return {};
  return {ScalarOf(ctx, inputs.at(Inputs::kGradScale)),
          ScalarOf(ctx, inputs.at(Inputs::kUpdate)) != 0,
          ctx->input(inputs.at(Inputs::kClipFactors)).flat<double>().data(),
          ScalarOf(ctx, inputs.at(Inputs::kClipvalue)),
          ScalarOf(ctx, inputs.at(Inputs::kWeightDecay)),
          ScalarOf(ctx, inputs.at(Inputs::kEmaMomentum))};
}

class FusedOp : public tensorflow::OpKernel {
 public:
  explicit FusedOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

  // Run where it becomes ready: the executor hands expensive kernels to another thread, which then
  // competes with the helpers of this one, and this one keeps all threads busy by itself.
  bool IsExpensive() override { return false; }

 protected:
  const Inputs& inputs() const { return *inputs_; }

  std::optional<Inputs> inputs_;
};

// Gives a variable whose buffer somebody else still reads a buffer of its own. In copy-on-read mode
// nobody does (resource_var.h), so there too a copy is made only where one is shared.
template <typename T>
absl::Status Unshare(OpKernelContext* ctx, const Inputs& inputs, const LockedVariables& vars) {
  using tensorflow::PrepareToUpdateVariable;
  using Device = Eigen::ThreadPoolDevice;
  for (int input = 0; input < inputs.num_resources(); ++input) {
    Tensor* const tensor = vars.tensor(input);
    absl::Status status;
    switch (tensor->dtype()) {
      case tensorflow::DT_INT64:
        status = PrepareToUpdateVariable<Device, int64_t>(ctx, tensor, false);
        break;
      case tensorflow::DT_BFLOAT16:
        status = PrepareToUpdateVariable<Device, Eigen::bfloat16>(ctx, tensor, false);
        break;
      case tensorflow::DT_UINT8:
        status = PrepareToUpdateVariable<Device, uint8_t>(ctx, tensor, false);
        break;
      default:
        status = PrepareToUpdateVariable<Device, T>(ctx, tensor, false);
    }
    TF_RETURN_IF_ERROR(status);
  }
  return absl::OkStatus();
}

template <typename T>
class FusedAdadeltaApplyOp : public FusedOp {
 public:
  explicit FusedAdadeltaApplyOp(tensorflow::OpKernelConstruction* ctx) : FusedOp(ctx) {
    OP_REQUIRES_OK(ctx, GetDenseLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.LockAndValidate(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value));
    OP_REQUIRES_OK(ctx, Unshare<T>(ctx, inputs(), vars));
    DenseUpdate(StorageOf(DTypeOf<T>(), inputs()),
                WithSeeds(UpdatesOf(ctx, inputs(), vars), SeedsOf(ctx, inputs())),
                HyperparametersOf(ctx, inputs()), OptionsOf(ctx, inputs()), WorkersOf(ctx));
  }
};

template <typename T, typename Index>
class FusedAdadeltaSparseApplyOp : public FusedOp {
 public:
  explicit FusedAdadeltaSparseApplyOp(tensorflow::OpKernelConstruction* ctx) : FusedOp(ctx) {
    OP_REQUIRES_OK(ctx, GetSparseLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    constexpr IndexType kIndexType = IndexTypeOf<Index>();
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.LockAndValidate(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value));
    const std::optional<BadIndex> bad =
        FindBadIndex(kIndexType, SparseUpdatesOf(ctx, inputs(), vars));
    OP_REQUIRES(ctx, !bad, OutOfRange(ctx, inputs(), *bad));
    OP_REQUIRES_OK(ctx, Unshare<T>(ctx, inputs(), vars));
    SparseUpdate(StorageOf(DTypeOf<T>(), inputs()), kIndexType,
                 WithSeeds(SparseUpdatesOf(ctx, inputs(), vars), SeedsOf(ctx, inputs())),
                 HyperparametersOf(ctx, inputs()), WorkersOf(ctx));
  }
};

template <typename T>
class FusedSquaredNormsOp : public FusedOp {
 public:
  explicit FusedSquaredNormsOp(tensorflow::OpKernelConstruction* ctx) : FusedOp(ctx) {
    OP_REQUIRES_OK(ctx, GetNormsLayout(ctx, &inputs_));
  }

  void Compute(OpKernelContext* ctx) override {
    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.LockAndValidate(ctx, inputs(), tensorflow::DataTypeToEnum<T>::value));
    Tensor* squared_norms;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {inputs().num_variables()}, &squared_norms));
    if (ScalarOf(ctx, inputs().at(Inputs::kUpdate)) == 0) {
      squared_norms->flat<double>().setZero();
      return;
    }
    SquaredNorms(DTypeOf<T>(), NormInputsOf(ctx, inputs(), vars),
                 ScalarOf(ctx, inputs().at(Inputs::kGradScale)),
                 squared_norms->flat<double>().data(), WorkersOf(ctx));
  }
};

#define REGISTER_SPARSE_KERNEL(T, Index)                          \
  REGISTER_KERNEL_BUILDER(Name("FusedAdadeltaSparseApply")        \
                              .Device(tensorflow::DEVICE_CPU)     \
                              .TypeConstraint<T>("T")             \
                              .TypeConstraint<Index>("Tindices"), \
                          FusedAdadeltaSparseApplyOp<T, Index>)
#define REGISTER_KERNEL(T)                                                              \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("FusedAdadeltaApply").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      FusedAdadeltaApplyOp<T>);                                                         \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("FusedSquaredNorms").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"),  \
      FusedSquaredNormsOp<T>);                                                          \
  REGISTER_SPARSE_KERNEL(T, int32_t);                                                   \
  REGISTER_SPARSE_KERNEL(T, int64_t)
REGISTER_KERNEL(Eigen::half);
REGISTER_KERNEL(Eigen::bfloat16);
REGISTER_KERNEL(float);
REGISTER_KERNEL(double);
#undef REGISTER_KERNEL
#undef REGISTER_SPARSE_KERNEL

}  // namespace
}  // namespace tf_adadelta
