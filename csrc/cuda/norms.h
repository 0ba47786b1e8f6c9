// The norms of a list of gradients on a GPU, for a clip by them. Plain C++, like dense.h.
#ifndef TF_ADADELTA_CUDA_NORMS_H_
#define TF_ADADELTA_CUDA_NORMS_H_

#include <string>
#include <vector>

#include "api.h"
#include "cuda/dense.h"
#include "cuda/memory.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

// Queues the computation of the squared norm of grad_scale * grad + grad_accum of each input, and
// waits for nothing. Where `update` is 0 no gradient is read and the norms are 0. All inputs have a
// grad_accum, or none has. `squared_norms` is in device memory. The sums are in double; the same
// inputs give the same bits on every run. Returns like DenseUpdate.
[[nodiscard]] TF_ADADELTA_API std::string SquaredNorms(
    DType dtype, const std::vector<NormInput>& inputs, const Scalar& grad_scale,
    const Scalar& update, double* squared_norms, const Allocate& allocate, const Stream& stream);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_NORMS_H_
