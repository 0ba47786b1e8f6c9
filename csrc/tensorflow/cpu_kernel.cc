// FusedAdadeltaApply on the CPU: TensorFlow's variables and threads, handed to the kernel.
#define EIGEN_USE_THREADS  // For PrepareToUpdateVariable, which copies on the thread pool.
#include "cpu/dense.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/kernels/training_op_helpers.h"
#include "tensorflow/dense_call.h"
#include "tensorflow/dense_inputs.h"
#include "tensorflow/dtype.h"
#include "tensorflow/variables.h"

namespace tf_adadelta {
namespace {

using tensorflow::OpKernelContext;

Workers WorkersOf(OpKernelContext* ctx) {
  const auto* const threads = ctx->device()->tensorflow_cpu_worker_threads();
  return {threads->num_threads,
          [threads](std::function<void()> task) { threads->workers->Schedule(std::move(task)); }};
}

template <typename T>
class FusedAdadeltaApplyOp : public tensorflow::OpKernel {
 public:
  explicit FusedAdadeltaApplyOp(tensorflow::OpKernelConstruction* ctx) : OpKernel(ctx) {}

  // Run where it becomes ready: the executor hands expensive kernels to another thread, which then
  // competes with the helpers of this one, and this one keeps all threads busy by itself.
  bool IsExpensive() override { return false; }

  void Compute(OpKernelContext* ctx) override {
    const DenseInputs inputs((ctx->num_inputs() - 3) / 4);
    OP_REQUIRES_OK(ctx, CheckScalars(ctx, inputs));
    const auto scalar = [&](int input) { return ctx->input(input).scalar<double>()(); };
    const Hyperparameters h = {scalar(inputs.learning_rate()), scalar(inputs.rho()),
                               scalar(inputs.epsilon())};

    LockedVariables vars;
    OP_REQUIRES_OK(ctx, vars.FindAndLock(ctx, inputs));
    OP_REQUIRES_OK(ctx, vars.Validate(ctx, inputs, tensorflow::DataTypeToEnum<T>::value));

    // Gives a variable whose buffer somebody else still reads a buffer of its own. In copy-on-read
    // mode nobody does (resource_var.h), so there too a copy is made only where one is shared.
    for (int input = 0; input < inputs.num_resources(); ++input) {
      OP_REQUIRES_OK(ctx, (tensorflow::PrepareToUpdateVariable<Eigen::ThreadPoolDevice, T>(
                              ctx, vars.tensor(input), /*copy_on_read_mode=*/false)));
    }

    DenseUpdate(DTypeOf<T>(), UpdatesOf(ctx, inputs, vars), h, WorkersOf(ctx));
  }
};

#define REGISTER_KERNEL(T)                                                              \
  REGISTER_KERNEL_BUILDER(                                                              \
      Name("FusedAdadeltaApply").Device(tensorflow::DEVICE_CPU).TypeConstraint<T>("T"), \
      FusedAdadeltaApplyOp<T>)
REGISTER_KERNEL(Eigen::half);
REGISTER_KERNEL(Eigen::bfloat16);
REGISTER_KERNEL(float);
REGISTER_KERNEL(double);
#undef REGISTER_KERNEL

}  // namespace
}  // namespace tf_adadelta
