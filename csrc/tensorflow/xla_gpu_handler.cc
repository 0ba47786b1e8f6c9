// The handler of the custom call on the GPU: XLA's buffers and stream, handed to the kernel.
#include <string>

#include "cuda/dense.h"
#include "tensorflow/xla_calls.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/ffi/api/ffi.h"

namespace tf_adadelta {
namespace {

namespace ffi = xla::ffi;

ffi::Error Handle(void* stream, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaDenseCall> call = XlaDenseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  const std::string error = cuda::DenseUpdate(
      call->dtype, call->updates,
      {{call->learning_rate, 0.0}, {call->rho, 0.0}, {call->epsilon, 0.0}}, {stream});
  return error.empty() ? ffi::Error::Success() : ffi::Error::Internal(error);
}

// XLA may record the call into a CUDA graph and replay that: it only ever queues kernels, and what
// these read, the hyperparameters too, is in buffers.
XLA_FFI_DEFINE_HANDLER(
    kDenseHandler, Handle,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().RemainingArgs().RemainingRets(),
    {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kDenseCustomCall, "CUDA", kDenseHandler);

}  // namespace
}  // namespace tf_adadelta
