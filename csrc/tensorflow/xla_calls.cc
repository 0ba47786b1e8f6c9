#include "tensorflow/xla_calls.h"

#include <algorithm>

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

ffi::ErrorOr<XlaCall> XlaCall::From(ffi::Span<const int64_t> sizes,
                                    const ffi::RemainingArgs& args) {
  Inputs::Sizes list_sizes;
  if (sizes.size() != list_sizes.size()) {
    return ffi::Unexpected(ffi::Error::InvalidArgument("unexpected number of lists"));
  }
  std::copy(sizes.begin(), sizes.end(), list_sizes.begin());
  XlaCall call{Inputs(list_sizes)};
  if (args.size() != static_cast<size_t>(call.inputs_.size())) {
    return ffi::Unexpected(ffi::Error::InvalidArgument("unexpected number of operands"));
  }
  call.buffers_.reserve(args.size());
  for (size_t i = 0; i < args.size(); ++i) {
    ffi::ErrorOr<ffi::AnyBuffer> buffer = args.get<ffi::AnyBuffer>(i);
    if (!buffer.has_value()) return ffi::Unexpected(buffer.error());
    call.buffers_.push_back(*buffer);
  }
  const ffi::ErrorOr<DType> dtype = ToDType(call.Buffer(Inputs::kGrads, 0).element_type());
  if (!dtype.has_value()) return ffi::Unexpected(dtype.error());
  if (call.inputs_.has(Inputs::kAccums)) {
    const ffi::DataType state = call.Buffer(Inputs::kAccums, 0).element_type();
    call.inputs_.set_has_blocks(state == ffi::DataType::U8);
  }
  call.dtype_ = StorageOf(*dtype, call.inputs_);
  return call;
}

ffi::ErrorOr<XlaCall> XlaCall::Update(ffi::Span<const int64_t> sizes,
                                      const ffi::RemainingArgs& args,
                                      const ffi::RemainingRets& rets) {
  ffi::ErrorOr<XlaCall> call = From(sizes, args);
  if (!call.has_value()) return call;
  if (rets.size() != static_cast<size_t>(call->inputs_.num_resources())) {
    return ffi::Unexpected(ffi::Error::InvalidArgument("unexpected number of results"));
  }
  for (size_t i = 0; i < rets.size(); ++i) {
    ffi::ErrorOr<ffi::Result<ffi::AnyBuffer>> result = rets.get<ffi::AnyBuffer>(i);
    if (!result.has_value()) return ffi::Unexpected(result.error());
    if ((*result)->untyped_data() != call->buffers_[i].untyped_data()) {
      return ffi::Unexpected(
          ffi::Error::Internal("XLA gave a result another buffer than its operand"));
    }
  }
  return call;
}

ffi::ErrorOr<XlaCall> XlaCall::Norms(ffi::Span<const int64_t> sizes,
                                     const ffi::RemainingArgs& args) {
  return From(sizes, args);
}

IndexType XlaCall::index_type() const {
  const bool narrow = Buffer(Inputs::kIndices, 0).element_type() == ffi::DataType::S32;
  return narrow ? IndexType::kInt32 : IndexType::kInt64;
}

const double* XlaCall::Scalars(Inputs::List list) const {
  return Buffer(list, 0).typed_data<double>();
}

const int64_t* XlaCall::Integers(Inputs::List list) const {
  return inputs_.has(list) ? Buffer(list, 0).typed_data<int64_t>() : nullptr;
}

const ffi::AnyBuffer& XlaCall::Buffer(Inputs::List list, int i) const {
  return buffers_[inputs_.at(list, i)];
}

void* XlaCall::Data(Inputs::List list, int i) const {
  return inputs_.has(list) ? Buffer(list, i).untyped_data() : nullptr;
}

std::vector<TensorUpdate> XlaCall::Updates() const {
  std::vector<TensorUpdate> updates;
  updates.reserve(inputs_.num_variables());
  for (int i = 0; i < inputs_.num_variables(); ++i) {
    updates.push_back({Data(Inputs::kVars, i), Data(Inputs::kAccums, i),
                       Data(Inputs::kAccumUpdates, i), Data(Inputs::kGrads, i),
                       static_cast<int64_t>(Buffer(Inputs::kVars, i).element_count()),
                       Data(Inputs::kAverages, i), Data(Inputs::kGradAccums, i)});
    const auto dimensions = Buffer(Inputs::kVars, i).dimensions();
    updates.back().row_elements =
        RowElements(dimensions.size() > 0 ? dimensions[0] : 1, updates.back().count);
  }
  return updates;
}

std::vector<SparseTensorUpdate> XlaCall::SparseUpdates() const {
  std::vector<SparseTensorUpdate> updates;
  updates.reserve(inputs_.num_variables());
  for (int i = 0; i < inputs_.num_variables(); ++i) {
    const ffi::AnyBuffer& var = Buffer(Inputs::kVars, i);
    const int64_t rows = var.dimensions()[0];
    updates.push_back({Data(Inputs::kVars, i), Data(Inputs::kAccums, i),
                       Data(Inputs::kAccumUpdates, i), Data(Inputs::kGrads, i),
                       Data(Inputs::kIndices, i), static_cast<int64_t*>(Data(Inputs::kClocks, i)),
                       rows, RowElements(rows, static_cast<int64_t>(var.element_count())),
                       static_cast<int64_t>(Buffer(Inputs::kIndices, i).element_count())});
  }
  return updates;
}

std::vector<NormInput> XlaCall::NormInputs() const {
  std::vector<NormInput> norms;
  norms.reserve(inputs_.num_variables());
  for (int i = 0; i < inputs_.num_variables(); ++i) {
    norms.push_back({Data(Inputs::kGrads, i), Data(Inputs::kGradAccums, i),
                     static_cast<int64_t>(Buffer(Inputs::kGrads, i).element_count())});
  }
  return norms;
}

}  // namespace tf_adadelta
