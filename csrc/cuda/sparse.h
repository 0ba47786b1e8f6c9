// The sparse update of a list of variables on a GPU: only the rows that have a gradient are read
// and written. Plain C++, like dense.h.
#ifndef TF_ADADELTA_CUDA_SPARSE_H_
#define TF_ADADELTA_CUDA_SPARSE_H_

#include <optional>
#include <string>
#include <vector>

#include "api.h"
#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/memory.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

// Queues the update of every variable of the list, and waits for nothing. Rows of a gradient whose
// index is out of range are skipped. The same inputs give the same bits on every run. Returns what
// went wrong in words, empty if nothing did.
[[nodiscard]] TF_ADADELTA_API std::string SparseUpdate(
    DType dtype, IndexType index_type, const std::vector<SparseTensorUpdate>& updates,
    const DeviceHyperparameters& hyperparameters, const Allocate& allocate, const Stream& stream);

// Whether TF_ADADELTA_CHECK_INDICES=1 asks for FindBadIndex before every update.
TF_ADADELTA_API bool IndicesAreChecked();

// Sets `bad` to the first index of the list that is out of range, if there is one. Waits for the
// GPU. Returns like SparseUpdate.
[[nodiscard]] TF_ADADELTA_API std::string FindBadIndex(
    IndexType index_type, const std::vector<SparseTensorUpdate>& updates, const Allocate& allocate,
    const Stream& stream, std::optional<BadIndex>* bad);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_SPARSE_H_
