// The handlers of the custom calls on the CPU: XLA's buffers and threads, handed to the kernel.
#include <algorithm>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "cpu/norms.h"
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

using Sizes = ffi::Span<const int64_t>;

Hyperparameters HyperparametersOf(const XlaCall& call) {
  return {*call.Scalars(Inputs::kLearningRate), *call.Scalars(Inputs::kRho),
          *call.Scalars(Inputs::kEpsilon),
          call.inputs().has(Inputs::kStep) ? *call.Integers(Inputs::kStep) : 0};
}

const int64_t* SeedsOf(const XlaCall& call) { return call.Integers(Inputs::kRandomSeeds); }

Options OptionsOf(const XlaCall& call) {
  if (!call.inputs().has(Inputs::kGradScale)) return {};
  return {*call.Scalars(Inputs::kGradScale),   *call.Scalars(Inputs::kUpdate) != 0,
          call.Scalars(Inputs::kClipFactors),  *call.Scalars(Inputs::kClipvalue),
          *call.Scalars(Inputs::kWeightDecay), *call.Scalars(Inputs::kEmaMomentum)};
}

ffi::Error HandleDense(ffi::ThreadPool threads, Sizes sizes, ffi::RemainingArgs args,
                       ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Update(sizes, args, rets);
  if (!call.has_value()) return call.error();
  DenseUpdate(call->dtype(), WithSeeds(call->Updates(), SeedsOf(*call)), HyperparametersOf(*call),
              OptionsOf(*call), WorkersOf(&threads));
  return ffi::Error::Success();
}

ffi::Error HandleSparse(ffi::ThreadPool threads, Sizes sizes, ffi::RemainingArgs args,
                        ffi::RemainingRets rets) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Update(sizes, args, rets);
  if (!call.has_value()) return call.error();
  const std::vector<SparseTensorUpdate> updates = call->SparseUpdates();
  if (const std::optional<BadIndex> bad = FindBadIndex(call->index_type(), updates)) {
    return ffi::Error::InvalidArgument(bad->Describe());
  }
  SparseUpdate(call->dtype(), call->index_type(), WithSeeds(updates, SeedsOf(*call)),
               HyperparametersOf(*call), WorkersOf(&threads));
  return ffi::Error::Success();
}

ffi::Error HandleNorms(ffi::ThreadPool threads, Sizes sizes, ffi::RemainingArgs args,
                       ffi::Result<ffi::Buffer<ffi::DataType::F64>> squared_norms) {
  const ffi::ErrorOr<XlaCall> call = XlaCall::Norms(sizes, args);
  if (!call.has_value()) return call.error();
  double* const out = squared_norms->typed_data();
  if (*call->Scalars(Inputs::kUpdate) == 0) {
    std::fill_n(out, call->inputs().num_variables(), 0.0);
  } else {
    SquaredNorms(call->dtype(), call->NormInputs(), *call->Scalars(Inputs::kGradScale), out,
                 WorkersOf(&threads));
  }
  return ffi::Error::Success();
}

auto Bind() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<Sizes>(kSizesAttribute).RemainingArgs();
}

#define REGISTER_HANDLER(target, name, handle, binding) \
  XLA_FFI_DEFINE_HANDLER(name, handle, binding);        \
  XLA_FFI_REGISTER_HANDLER(ffi::GetXlaFfiApi(), target, "Host", name)
REGISTER_HANDLER(kDenseCustomCall, kDenseHandler, HandleDense, Bind().RemainingRets());
REGISTER_HANDLER(kSparseCustomCall, kSparseHandler, HandleSparse, Bind().RemainingRets());
REGISTER_HANDLER(kNormsCustomCall, kNormsHandler, HandleNorms,
                 Bind().Ret<ffi::Buffer<ffi::DataType::F64>>());
#undef REGISTER_HANDLER

}  // namespace
}  // namespace tf_adadelta
