// The handlers of the custom calls on the GPU: XLA's buffers, stream and memory, handed to the
// kernels.
#include <optional>
#include <string>
#include <vector>

#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/norms.h"
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

using Sizes = ffi::Span<const int64_t>;

cuda::Scalar ScalarOf(const XlaCall& call, Inputs::List list) { return {call.Scalars(list), 0.0}; }

cuda::DeviceHyperparameters HyperparametersOf(const XlaCall& call) {
  return {ScalarOf(call, Inputs::kLearningRate),
          ScalarOf(call, Inputs::kRho),
          ScalarOf(call, Inputs::kEpsilon),
          {call.Integers(Inputs::kStep), 0, call.Integers(Inputs::kRandomSeeds)}};
}

std::optional<cuda::DeviceOptions> OptionsOf(const XlaCall& call) {
  if (!call.inputs().has(Inputs::kGradScale)) return std::nullopt;
  return cuda::DeviceOptions{
      ScalarOf(call, Inputs::kGradScale),   ScalarOf(call, Inputs::kUpdate),
      ScalarOf(call, Inputs::kClipvalue),   ScalarOf(call, Inputs::kWeightDecay),
      ScalarOf(call, Inputs::kEmaMomentum), call.Scalars(Inputs::kClipFactors)};
}

// Of memory that is XLA's again when the handler returns.
cuda::Allocate AllocateFrom(ffi::ScratchAllocator& scratch) {
  return [&scratch](size_t bytes) {
    return scratch.Allocate(bytes, cuda::kWorkspaceAlignment).value_or(nullptr);
  };
}

ffi::Error HandleDense(void* stream, Sizes sizes, ffi::RemainingArgs args,
                       ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Update(sizes, args, rets);
  if (!call.has_value()) return call.error();
  const std::optional<cuda::DeviceOptions> options = OptionsOf(*call);
  return ToError(cuda::DenseUpdate(call->dtype(), call->Updates(), HyperparametersOf(*call),
                                   options ? &*options : nullptr, {stream}));
}

// Before the call is executed, and before it is recorded.
ffi::Error InitializeDense(Sizes sizes, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Update(sizes, args, rets);
  if (!call.has_value()) return call.error();
  const Inputs& inputs = call->inputs();
  return ToError(cuda::LoadDenseKernels(call->dtype(), inputs.has(Inputs::kGradScale),
                                        inputs.has(Inputs::kAverages),
                                        inputs.has(Inputs::kGradAccums)));
}

ffi::Error HandleSparse(void* stream, ffi::ScratchAllocator scratch, Sizes sizes,
                        ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Update(sizes, args, rets);
  if (!call.has_value()) return call.error();
  const std::vector<SparseTensorUpdate> updates = call->SparseUpdates();
  const cuda::Allocate allocate = AllocateFrom(scratch);
  if (cuda::IndicesAreChecked()) {
    std::optional<BadIndex> bad;
    const std::string error =
        cuda::FindBadIndex(call->index_type(), updates, allocate, {stream}, &bad);
    if (!error.empty()) return ToError(error);
    if (bad) return ffi::Error::InvalidArgument(bad->Describe());
  }
  return ToError(cuda::SparseUpdate(call->dtype(), call->index_type(), updates,
                                    HyperparametersOf(*call), allocate, {stream}));
}

ffi::Error HandleNorms(void* stream, ffi::ScratchAllocator scratch, Sizes sizes,
                       ffi::RemainingArgs args,
                       ffi::Result<ffi::Buffer<ffi::DataType::F64>> squared_norms) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Norms(sizes, args);
  if (!call.has_value()) return call.error();
  return ToError(cuda::SquaredNorms(call->dtype(), call->NormInputs(),
                                    ScalarOf(*call, Inputs::kGradScale),
                                    ScalarOf(*call, Inputs::kUpdate), squared_norms->typed_data(),
                                    AllocateFrom(scratch), {stream}));
}

// XLA may record this call into a CUDA graph and replay that: it only ever queues kernels, and what
// these read, the scalars too, is in buffers.
XLA_FFI_DEFINE_HANDLER(kDenseHandler, HandleDense,
                       ffi::Ffi::Bind()
                           .Ctx<ffi::PlatformStream<void*>>()
                           .Attr<Sizes>(kSizesAttribute)
                           .RemainingArgs()
                           .RemainingRets(),
                       {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER(kDenseInitializer, InitializeDense,
                       ffi::Ffi::Bind<ffi::ExecutionStage::kInitialize>()
                           .Attr<Sizes>(kSizesAttribute)
                           .RemainingArgs()
                           .RemainingRets());
constexpr XLA_FFI_Handler_Bundle kDenseBundle = {nullptr, nullptr, kDenseInitializer,
                                                 kDenseHandler};
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kDenseCustomCall, "CUDA", kDenseBundle);

// But not these, whose memory for the sort and for the pieces of the sums is XLA's again when they
// return.
auto BindWithScratch() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<void*>>()
      .Ctx<ffi::ScratchAllocator>()
      .Attr<Sizes>(kSizesAttribute)
      .RemainingArgs();
}
XLA_FFI_DEFINE_HANDLER(kSparseHandler, HandleSparse, BindWithScratch().RemainingRets());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kSparseCustomCall, "CUDA", kSparseHandler);
XLA_FFI_DEFINE_HANDLER(kNormsHandler, HandleNorms,
                       BindWithScratch().Ret<ffi::Buffer<ffi::DataType::F64>>());
XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), kNormsCustomCall, "CUDA", kNormsHandler);

}  // namespace
}  // namespace tf_adadelta
