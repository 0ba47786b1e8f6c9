// The handlers of the custom calls on the CPU: XLA's buffers and threads, handed to the kernel.
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "cpu/sparse.h"
#include "tensorflow/inputs.h"
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

// The buffers of a call: those of all operands, of which the first are those of the results.
ffi::ErrorOr<std::vector<ffi::AnyBuffer>> GetBuffers(const Inputs& inputs,
                                                     const ffi::RemainingArgs& args,
                                                     const ffi::RemainingRets& rets) {
  if (args.size() != static_cast<size_t>(inputs.size()) ||
      rets.size() != static_cast<size_t>(inputs.num_resources())) {
    return ffi::Unexpected(ffi::Error::InvalidArgument("unexpected number of operands"));
  }
  std::vector<ffi::AnyBuffer> buffers;
  buffers.reserve(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return ffi::Unexpected(buffer.error());
    buffers.push_back(*buffer);
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> result = rets.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) return ffi::Unexpected(result.error());
    if ((*result)->untyped_data() != buffers[i].untyped_data()) {
      return ffi::Unexpected(
          ffi::Error::Internal("XLA gave a result another buffer than its operand"));
    }
  }
  return buffers;
}

Hyperparameters GetHyperparameters(const Inputs& inputs,
                                   const std::vector<ffi::AnyBuffer>& buffers) {
  const auto scalar = [&](int input) { return *buffers[input].typed_data<double>(); };
  return {scalar(inputs.learning_rate()), scalar(inputs.rho()), scalar(inputs.epsilon())};
}

Workers WorkersOf(ffi::ThreadPool* threads) {
  return {static_cast<int>(threads->num_threads()),
          [threads](std::function<void()> task) { threads->Schedule(std::move(task)); }};
}

ffi::Error HandleDense(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  const Inputs inputs = Inputs::Dense(static_cast<int>(rets.size() / 3));
  const ffi::ErrorOr<std::vector<ffi::AnyBuffer>> got = GetBuffers(inputs, args, rets);
  if (!got.has_value()) return got.error();
  const std::vector<ffi::AnyBuffer>& buffers = *got;
  const ffi::ErrorOr<DType> dtype = ToDType(buffers[inputs.var(0)].element_type());
  if (!dtype.has_value()) return dtype.error();
  std::vector<TensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         static_cast<int64_t>(buffers[inputs.var(i)].element_count())});
  }
  DenseUpdate(*dtype, updates, GetHyperparameters(inputs, buffers), WorkersOf(&threads));
  return ffi::Error::Success();
}

ffi::Error HandleSparse(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  // With R results and N variables there are R + 2 N + 3 operands.
  const size_t num_variables = (args.size() - rets.size() - Inputs::kNumScalars) / 2;
  const Inputs inputs =
      Inputs::Sparse(static_cast<int>(num_variables), rets.size() == 4 * num_variables);
  const ffi::ErrorOr<std::vector<ffi::AnyBuffer>> got = GetBuffers(inputs, args, rets);
  if (!got.has_value()) return got.error();
  const std::vector<ffi::AnyBuffer>& buffers = *got;
  const ffi::ErrorOr<DType> dtype = ToDType(buffers[inputs.var(0)].element_type());
  if (!dtype.has_value()) return dtype.error();
  const IndexType index_type = buffers[inputs.indices(0)].element_type() == ffi::DataType::S32
                                   ? IndexType::kInt32
                                   : IndexType::kInt64;
  std::vector<SparseTensorUpdate> updates;
  updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const auto shape = buffers[inputs.var(i)].dimensions();
    int64_t row_elements = 1;
    for (size_t axis = 1; axis < shape.size(); ++axis) row_elements *= shape[axis];
    updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         buffers[inputs.indices(i)].untyped_data(),
         inputs.has_clocks() ? static_cast<int64_t*>(buffers[inputs.clock(i)].untyped_data())
                             : nullptr,
         shape[0], row_elements, static_cast<int64_t>(buffers[inputs.indices(i)].element_count())});
  }
  if (const std::optional<BadIndex> bad = FindBadIndex(index_type, updates)) {
    const int i = static_cast<int>(bad->variable);
    return ffi::Error::InvalidArgument(absl::StrCat(
        inputs.Describe(inputs.indices(i)), "[", bad->position, "] is ", bad->index,
        ", expected 0 to ", updates[i].rows - 1, ", a row of ", inputs.Describe(inputs.var(i))));
  }
  SparseUpdate(*dtype, index_type, updates, GetHyperparameters(inputs, buffers),
               WorkersOf(&threads));
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
