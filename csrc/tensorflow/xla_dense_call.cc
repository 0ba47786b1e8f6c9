#include "tensorflow/xla_dense_call.h"

#include "tensorflow/dense_inputs.h"

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

}  // namespace

ffi::ErrorOr<XlaDenseCall> XlaDenseCall::From(const ffi::RemainingArgs& args,
                                              const ffi::RemainingRets& rets) {
  const DenseInputs inputs(static_cast<int>(rets.size() / 3));
  if (args.size() != static_cast<size_t>(inputs.size())) {
    return ffi::Unexpected(ffi::Error::InvalidArgument("unexpected number of operands"));
  }
  std::vector<ffi::AnyBuffer> buffers;
  buffers.reserve(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return ffi::Unexpected(buffer.error());
    buffers.push_back(*buffer);
  }
  for (int i = 0; i < inputs.num_resources(); ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> result = rets.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) return ffi::Unexpected(result.error());
    if ((*result)->untyped_data() != buffers[i].untyped_data()) {
      return ffi::Unexpected(
          ffi::Error::Internal("XLA gave a result another buffer than its operand"));
    }
  }
  const ffi::ErrorOr<DType> dtype = ToDType(buffers[0].element_type());
  if (!dtype.has_value()) return ffi::Unexpected(dtype.error());

  XlaDenseCall call;
  call.dtype = *dtype;
  call.learning_rate = buffers[inputs.learning_rate()].typed_data<double>();
  call.rho = buffers[inputs.rho()].typed_data<double>();
  call.epsilon = buffers[inputs.epsilon()].typed_data<double>();
  call.updates.reserve(inputs.num_variables());
  for (int i = 0; i < inputs.num_variables(); ++i) {
    call.updates.push_back(
        {buffers[inputs.var(i)].untyped_data(), buffers[inputs.accum(i)].untyped_data(),
         buffers[inputs.accum_update(i)].untyped_data(), buffers[inputs.grad(i)].untyped_data(),
         static_cast<int64_t>(buffers[inputs.var(i)].element_count())});
  }
  return call;
}

}  // namespace tf_adadelta
