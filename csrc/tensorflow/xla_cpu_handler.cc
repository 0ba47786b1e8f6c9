// The handlers of the custom calls on the CPU: XLA's buffers and threads, handed to the kernel.
#include <functional>
#include <optional>
#include <utility>

#include "cpu/dense.h"
#include "cpu/sparse.h"
#include "tensorflow/xla_calls.h"
#include "tensorflow/xla_custom_call.h"
#include "xla/ffi/api/ffi.h"

namespace tf_adadelta {
namespace {

namespace ffi = xla::ffi;

Workers WorkersOf(ffi::ThreadPool* threads) {
  return {static_cast<int>(threads->num_threads()),
          [threads](std::function<void()> task) { threads->Schedule(std::move(task)); }};
}

ffi::Error HandleDense(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaDenseCall> call = XlaDenseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  DenseUpdate(call->dtype, call->updates, {*call->learning_rate, *call->rho, *call->epsilon},
              WorkersOf(&threads));
  return ffi::Error::Success();
}

ffi::Error HandleSparse(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaSparseCall> call = XlaSparseCall::From(args, rets);
  if (!call.has_value()) return call.error();
  if (const std::optional<BadIndex> bad = FindBadIndex(call->index_type, call->updates)) {
    return ffi::Error::InvalidArgument(bad->Describe());
  }
  SparseUpdate(call->dtype, call->index_type, call->updates,
               {*call->learning_rate, *call->rho, *call->epsilon}, WorkersOf(&threads));
  return ffi::Error::Success();
}

#define REGISTER_HANDLER(target, name, handle)                                                     \
  XLA_FFI_DEFINE_HANDLER(name, handle,                                                             \
                         ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets()); \
  XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), target, "Host", name)
REGISTER_HANDLER(kDenseCustomCall, kDenseHandler, HandleDense);
REGISTER_HANDLER(kSparseCustomCall, kSparseHandler, HandleSparse);
#undef REGISTER_HANDLER

}  // namespace
}  // namespace tf_adadelta
