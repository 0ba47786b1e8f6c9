#include "tensorflow/xla_calls.h"

#include "tensorflow/inputs.h"

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

// Fills what the calls have in common.
template <typename Call>
ffi::Error FillCommon(const Inputs& inputs, const std::vector<ffi::AnyBuffer>& buffers,
                      Call* call) {
  const ffi::ErrorOr<DType> dtype = ToDType(buffers[inputs.var(0)].element_type());
  if (!dtype.has_value()) return dtype.error();
  call->dtype = *dtype;
  call->learning_rate = buffers[inputs.learning_rate()].typed_data<double>();
  call->rho = buffers[inputs.rho()].typed_data<double>();
  call->epsilon = buffers[inputs.epsilon()].typed_data<double>();
  call->updates.reserve(inputs.num_variables());
  return ffi::Error::Success();
}

}  // namespace

ffi::ErrorOr<XlaDenseCall> XlaDenseCall::From(const ffi::RemainingArgs& args,
                                              const ffi::RemainingRets& rets) {
  const Inputs inputs = Inputs::Dense(static_cast<int>(rets.size() / 3));
  const ffi::ErrorOr<std::vector<ffi::AnyBuffer>> got = GetBuffers(inputs, args, rets);
  if (!got.has_value()) return ffi::Unexpected(got.error());
  const std::vector<ffi::AnyBuffer>& buffers = *got;
  XlaDenseCall call;
  if (ffi::Error error = FillCommon(inputs, buffers, &call); error.failure()) {
    return ffi::Unexpected(error);
  }
  for (int i = 0; i < inputs.num_variables(); ++i) {
    call.updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         static_cast<int64_t>(buffers[inputs.var(i)].element_count())});
  }
  return call;
}

ffi::ErrorOr<XlaSparseCall> XlaSparseCall::From(const ffi::RemainingArgs& args,
                                                const ffi::RemainingRets& rets) {
  // With R results and N variables there are R + 2 N + 3 operands.
  const size_t num_variables = (args.size() - rets.size() - Inputs::kNumScalars) / 2;
  const Inputs inputs =
      Inputs::Sparse(static_cast<int>(num_variables), rets.size() == 4 * num_variables);
  const ffi::ErrorOr<std::vector<ffi::AnyBuffer>> got = GetBuffers(inputs, args, rets);
  if (!got.has_value()) return ffi::Unexpected(got.error());
  const std::vector<ffi::AnyBuffer>& buffers = *got;
  XlaSparseCall call;
  if (ffi::Error error = FillCommon(inputs, buffers, &call); error.failure()) {
    return ffi::Unexpected(error);
  }
  call.index_type = buffers[inputs.indices(0)].element_type() == ffi::DataType::S32
                        ? IndexType::kInt32
                        : IndexType::kInt64;
  for (int i = 0; i < inputs.num_variables(); ++i) {
    const auto shape = buffers[inputs.var(i)].dimensions();
    int64_t row_elements = 1;
    for (size_t axis = 1; axis < shape.size(); ++axis) row_elements *= shape[axis];
    void* const clock = inputs.has_clocks() ? buffers[inputs.clock(i)].untyped_data() : nullptr;
    call.updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         buffers[inputs.indices(i)].untyped_data(), static_cast<int64_t*>(clock), shape[0],
         row_elements, static_cast<int64_t>(buffers[inputs.indices(i)].element_count())});
  }
  return call;
}

}  // namespace tf_adadelta
