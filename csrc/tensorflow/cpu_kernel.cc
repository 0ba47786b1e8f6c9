// The ops on the CPU: TensorFlow's variables and threads, handed to the kernel.
#define EIGEN_USE_THREADS  // For PrepareToUpdateVariable, which copies on the thread pool.
#include <optional>
#include <vector>

#include "cpu/dense.h"
#include "cpu/sparse.h"
#include "tensorflow/calls.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/kernels/training_op_helpers.h"
#include "tensorflow/dtype.h"
#include "tensorflow/inputs.h"
#include "tensorflow/shapes.h"
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

template <typename T>
class FusedOp : public tensorflow::OpKernel {
 public:
  explicit FusedOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

  // Run where it becomes ready: the executor hands expensive kernels to another thread, which then
  // competes with the helpers of this one, and this one keeps all threads busy by itself.
  bool IsExpensive() override { return false; }

 protected:
  // Makes the variables of a call ready to be written: `vars` must outlive the update.
  absl::Status Prepare(OpKernelContext* ctx, const Inputs& inputs, LockedVariables* vars,
                       Hyperparameters* h) {
    TF_RETURN_IF_ERROR(vars->FindAndLock(ctx, inputs));
    TF_RETURN_IF_ERROR(vars->Validate(ctx, inputs, tensorflow::DataTypeToEnum<T>::value));
    TF_RETURN_IF_ERROR(CheckValues(ctx, inputs, *vars));
    const auto scalar = [&](int input) { return ctx->input(input).scalar<double>()(); };
    *h = {scalar(inputs.learning_rate()), scalar(inputs.rho()), scalar(inputs.epsilon())};
    // Gives a variable whose buffer somebody else still reads a buffer of its own. In copy-on-read
    // mode nobody does (resource_var.h), so there too a copy is made only where one is shared.
    using tensorflow::PrepareToUpdateVariable;
    using Device = Eigen::ThreadPoolDevice;
    for (int input = 0; input < inputs.num_resources(); ++input) {
      Tensor* const tensor = vars->tensor(input);
      TF_RETURN_IF_ERROR(inputs.IsClock(input)
                             ? PrepareToUpdateVariable<Device, int64_t>(ctx, tensor, false)
                             : PrepareToUpdateVariable<Device, T>(ctx, tensor, false));
    }
    return absl::OkStatus();
  }

  virtual absl::Status CheckValues(OpKernelContext*, const Inputs&, const LockedVariables&) const {
    return absl::OkStatus();
  }
};

template <typename T>
class FusedAdadeltaApplyOp : public FusedOp<T> {
 public:
  using FusedOp<T>::FusedOp;

  void Compute(OpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Dense((ctx->num_inputs() - Inputs::kNumScalars) / 4);
    LockedVariables vars;
    Hyperparameters h;
    OP_REQUIRES_OK(ctx, this->Prepare(ctx, inputs, &vars, &h));
    DenseUpdate(DTypeOf<T>(), UpdatesOf(ctx, inputs, vars), h, WorkersOf(ctx));
  }
};

template <typename T, typename Index>
class FusedAdadeltaSparseApplyOp : public FusedOp<T> {
 public:
  explicit FusedAdadeltaSparseApplyOp(tensorflow::OpKernelConstruction* ctx) : FusedOp<T>(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("N", &num_variables_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_clocks", &num_clocks_));
    OP_REQUIRES_OK(ctx, CheckNumClocks(num_variables_, num_clocks_));
  }

  void Compute(OpKernelContext* ctx) override {
    const Inputs inputs = Inputs::Sparse(num_variables_, num_clocks_ > 0);
    LockedVariables vars;
    Hyperparameters h;
    OP_REQUIRES_OK(ctx, this->Prepare(ctx, inputs, &vars, &h));
    SparseUpdate(DTypeOf<T>(), kIndexType, SparseUpdatesOf(ctx, inputs, vars), h, WorkersOf(ctx));
  }

 private:
  static constexpr IndexType kIndexType = IndexTypeOf<Index>();

  absl::Status CheckValues(OpKernelContext* ctx, const Inputs& inputs,
                           const LockedVariables& vars) const override {
    const std::optional<BadIndex> bad =
        FindBadIndex(kIndexType, SparseUpdatesOf(ctx, inputs, vars));
    return bad ? OutOfRange(ctx, inputs, *bad) : absl::OkStatus();
  }

  int num_variables_;
  int num_clocks_;
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
