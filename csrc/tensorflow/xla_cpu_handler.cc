// The handler of the custom call on the CPU: XLA's buffers and threads, handed to the kernel.
#include <functional>
#include <utility>

#include "cpu/dense.h"
#include "tensorflow/xla_custom_call.h"
#include "tensorflow/xla_dense_call.h"
#include "xla/ffi/api/ffi.h"

namespace tf_adadelta {
namespace {

namespace ffi = xla::ffi;

ffi::Error Handle(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaDenseCall> call = XlaDenseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  const Workers workers = {
      static_cast<int>(threads.num_threads()),
      [&threads](std::function<void()> task) { threads.Schedule(std::move(task)); }};
  DenseUpdate(call->dtype, call->updates, {*call->learning_rate, *call->rho, *call->epsilon},
              workers);
  return ffi::Error::Success();
}

XLA_FFI_DEFINE_HANDLER(kDenseHandler, Handle,
                       ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kDenseCustomCall, "Host", kDenseHandler);

}  // namespace
}  // namespace tf_adadelta
