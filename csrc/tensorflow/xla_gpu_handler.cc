// The handlers of the custom calls on the GPU: XLA's buffers, stream and memory, handed to the
// kernels.
#include <optional>
#include <string>

#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/sparse.h"
#include "tensorflow/xla_calls.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/ffi/api/ffi.h"

namespace tf_adadelta {
namespace {

namespace ffi = xla::ffi;

ffi::Error ToError(const std::string& error) {
  return error.empty() ? ffi::Error::Success() : ffi::Error::Internal(error);
}

template <typename Call>
cuda::DeviceHyperparameters HyperparametersOf(const Call& call) {
  return {{call.learning_rate, 0.0}, {call.rho, 0.0}, {call.epsilon, 0.0}};
}

ffi::Error HandleDense(void* stream, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaDenseCall> call = XlaDenseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  return ToError(cuda::DenseUpdate(call->dtype, call->updates, HyperparametersOf(*call), {stream}));
}

ffi::Error HandleSparse(void* stream, ffi::ScratchAllocator scratch, ffi::RemainingArgs args,
                        ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaSparseCall> call = XlaSparseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  const auto allocate = [&](size_t bytes) {
    return scratch.Allocate(bytes, cuda::kWorkspaceAlignment).value_or(nullptr);
  };
  if (cuda::IndicesAreChecked()) {
    std::optional<BadIndex> bad;
    const std::string error =
        cuda::FindBadIndex(call->index_type, call->updates, allocate, {stream}, &bad);
    if (!error.empty()) return ToError(error);
    if (bad) return ffi::Error::InvalidArgument(bad->Describe());
  }
  return ToError(cuda::SparseUpdate(call->dtype, call->index_type, call->updates,
                                    HyperparametersOf(*call), allocate, {stream}));
}

// XLA may record this call into a CUDA graph and replay that: it only ever queues kernels, and what
// these read, the hyperparameters too, is in buffers.
XLA_FFI_DEFINE_HANDLER(
    kDenseHandler, HandleDense,
    ffi::Ffi::Bind().Ctx<ffi::PlatformStream<void*>>().RemainingArgs().RemainingRets(),
    {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kDenseCustomCall, "CUDA", kDenseHandler);

// But not this one, whose memory for the sort is XLA's again when it returns.
XLA_FFI_DEFINE_HANDLER(kSparseHandler, HandleSparse,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Ctx<ffi::ScratchAllocator>()
                           .RemainingArgs()
                           .RemainingRets());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseCustomCall, "CUDA", kSparseHandler);

}  // namespace
}  // namespace tf_adadelta
