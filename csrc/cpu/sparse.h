// The sparse update of a list of variables on the CPU: only the rows that have a gradient are read
// and written.
#ifndef TF_ADADELTA_CPU_SPARSE_H_
#define TF_ADADELTA_CPU_SPARSE_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "api.h"
#include "bad_index.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel.h"
#include "tensor_update.h"

namespace tf_adadelta {

// Returns the first index of the list that is out of range.
TF_ADADELTA_API std::optional<BadIndex> FindBadIndex(
    IndexType index_type, const std::vector<SparseTensorUpdate>& updates);

// Updates every variable of the list; no index is out of range. The bits of the result do not
// depend on the number of threads.
TF_ADADELTA_API void SparseUpdate(DType dtype, IndexType index_type,
                                  const std::vector<SparseTensorUpdate>& updates,
                                  const Hyperparameters& hyperparameters, const Workers& workers,
                                  const InstructionSet& instruction_set = BestInstructionSet());

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_SPARSE_H_
