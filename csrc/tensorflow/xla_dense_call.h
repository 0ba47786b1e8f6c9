// The operands of the custom call, as its handlers on the CPU and the GPU find them.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_DENSE_CALL_H_
#define TF_ADADELTA_TENSORFLOW_XLA_DENSE_CALL_H_

#include <vector>

#include "tensor_update.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Exported by libtensorflow_framework; its header is not in the pip package.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace tf_adadelta {

// A call whose results are in the buffers of their operands.
struct XlaDenseCall {
  static xla::ffi::ErrorOr<XlaDenseCall> From(const xla::ffi::RemainingArgs& args,
                                              const xla::ffi::RemainingRets& rets);

  DType dtype;
  std::vector<TensorUpdate> updates;
  // In the memory of the platform that the call is on.
  const double* learning_rate;
  const double* rho;
  const double* epsilon;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_DENSE_CALL_H_
