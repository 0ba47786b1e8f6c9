// The operands of the custom calls, as their handlers on the CPU and the GPU find them.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_
#define TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_

#include <vector>

#include "tensor_update.h"
#include "xla/ffi/api/ffi.h"

namespace xla::ffi {
// Exported by libtensorflow_framework; its header is not in the pip package.
const XLA_FFI_Api* GetXlaFfiApi();
}  // namespace xla::ffi

namespace tf_adadelta {

// Calls whose results are in the buffers of their operands. The hyperparameters are in the memory
// of the platform that the call is on.
struct XlaDenseCall {
  static xla::ffi::ErrorOr<XlaDenseCall> From(const xla::ffi::RemainingArgs& args,
                                              const xla::ffi::RemainingRets& rets);

  DType dtype;
  std::vector<TensorUpdate> updates;
  const double* learning_rate;
  const double* rho;
  const double* epsilon;
};

struct XlaSparseCall {
  static xla::ffi::ErrorOr<XlaSparseCall> From(const xla::ffi::RemainingArgs& args,
                                               const xla::ffi::RemainingRets& rets);

  DType dtype;
  IndexType index_type;
  std::vector<SparseTensorUpdate> updates;
  const double* learning_rate;
  const double* rho;
  const double* epsilon;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_CALLS_H_
