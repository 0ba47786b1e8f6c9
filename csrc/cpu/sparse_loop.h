// The inner loop of the sparse update, compiled once for each instruction set.
#ifndef TF_ADADELTA_CPU_SPARSE_LOOP_H_
#define TF_ADADELTA_CPU_SPARSE_LOOP_H_

#include <cstdint>

#include "tensor_update.h"

namespace tf_adadelta {

// Some rows of one table, each with the gradient rows that are summed for it (row_groups.h).
struct RowRange {
  const int64_t* rows;
  const int64_t* begins;
  const int64_t* positions;
  const double* half_decays;  // What each row catches up with (DecayIdle in adadelta.h).
  int64_t num_rows;
  // The first element of the first row and the end of the last: a row may be shared out.
  int64_t first_element;
  int64_t end_element;
};

using SparseLoop = void(DType dtype, const SparseTensorUpdate& update, const RowRange& range,
                        const Hyperparameters& hyperparameters);

SparseLoop SparseLoopBaseline;
SparseLoop SparseLoopAvx2;
SparseLoop SparseLoopAvx512;

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_SPARSE_LOOP_H_
