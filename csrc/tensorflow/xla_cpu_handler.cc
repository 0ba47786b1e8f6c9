// The handler of the custom call on the CPU: XLA's buffers and threads, handed to the kernel.
#include <functional>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "tensorflow/dense_inputs.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Exported by libtensorflow_framework; its header is not in the pip package.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace tf_adadelta {
namespace {

namespace ffi = xla::ffi;

ffi::ErrorOr<DType> ToDType(ffi::DataType type) {
  switch (type) {
    case ffi::DataType::F16:
      return DType::kHalf;
    case ffi::DataType::BF16:
      return DType::kBFloat16;
    case ffi::DataType::F32:
      return DType::kFloat;
    case ffi::DataType::F64:
      return DType::kDouble;
    default:
      return ffi::Unexpected(ffi::Error::InvalidArgument("unsupported element type"));
  }
}

ffi::Error Handle(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const DenseInputs inputs(static_cast<int>(rets.size() / 3));
  if (args.size() != static_cast<size_t>(inputs.size())) {
    return ffi::Error::InvalidArgument("unexpected number of operands");
  }
  std::vector<ffi::AnyBuffer> buffers;
  buffers.reserve(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return buffer.error();
    buffers.push_back(*buffer);
  }
  for (int i = 0; i < inputs.num_resources(); ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> result = rets.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) return result.error();
    if ((*result)->untyped_data() != buffers[i].untyped_data()) {
      return ffi::Error::Internal("XLA gave a result another buffer than its operand");
    }
  }
  const ffi::ErrorOr<DType> dtype = ToDType(buffers[0].element_type());
  if (!dtype.has_value()) return dtype.error();

  const auto scalar = [&](int input) { return *buffers[input].typed_data<double>(); };
  const Hyperparameters hyperparameters = {scalar(inputs.learning_rate()), scalar(inputs.rho()),
                                           scalar(inputs.epsilon())};
  std::vector<TensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         static_cast<int64_t>(buffers[inputs.var(i)].element_count())});
  }
  const Workers workers = {
      static_cast<int>(threads.num_threads()),
      [&threads](std::function<void()> task) { threads.Schedule(std::move(task)); }};
  DenseUpdate(*dtype, updates, hyperparameters, workers);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kDenseHandler, Handle,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kDenseCustomCall, "Host", kDenseHandler);

}  // namespace
}  // namespace tf_adadelta
