// The operands of a custom call, as its handlers on the CPU and the GPU find them.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_
#define TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_

#include <vector>

#include "tensor_update.h"
#include "tensorflow/inputs.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Exported by libtensorflow_framework; its header is not in the pip package.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace tf_adadelta {

class XlaCall {
 public:
  // Of an update, whose results are in the buffers of its operands.
  static xla::ffi::ErrorOr<XlaCall> Update(xla::ffi::Span<const int64_t> sizes,
                                           const xla::ffi::RemainingArgs& args,
                                           const xla::ffi::RemainingRets& rets);

  // Of the norms, whose result has a buffer of its own.
  static xla::ffi::ErrorOr<XlaCall> Norms(xla::ffi::Span<const int64_t> sizes,
                                          const xla::ffi::RemainingArgs& args);

  const Inputs& inputs() const { return inputs_; }
  // Of the gradients, or how the variables are stored.
  DType dtype() const { return dtype_; }
  IndexType index_type() const;

  // The scalars (and the factors of a clip), in the memory of the platform that the call is on.
  const double* Scalars(Inputs::List list) const;

  // Likewise the step and the seeds; null where the call has none.
  const int64_t* Integers(Inputs::List list) const;

  std::vector<TensorUpdate> Updates() const;
  std::vector<SparseTensorUpdate> SparseUpdates() const;
  std::vector<NormInput> NormInputs() const;

 private:
  static xla::ffi::ErrorOr<XlaCall> From(xla::ffi::Span<const int64_t> sizes,
                                         const xla::ffi::RemainingArgs& args);

  explicit XlaCall(const Inputs& inputs) : inputs_(inputs) {}

  const xla::ffi::AnyBuffer& Buffer(Inputs::List list, int i) const;
  // Null where the call has no such list.
  void* Data(Inputs::List list, int i) const;

  Inputs inputs_;
  std::vector<xla::ffi::AnyBuffer> buffers_;
  DType dtype_ = DType::kFloat;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_
