// Groups the rows of a sparse gradient by the row of the variable that they belong to.
#ifndef TF_ADADELTA_CPU_ROW_GROUPS_H_
#define TF_ADADELTA_CPU_ROW_GROUPS_H_

#include <cstdint>
#include <vector>

#include "tensor_update.h"

namespace tf_adadelta {

// The rows of the variable that have a gradient, ascending. Those of the gradient that belong to
// rows[i] are positions[begins[i]] to positions[begins[i + 1] - 1], ascending too: the order
// depends on nothing but the indices, and so do the bits of every sum taken in it.
struct RowGroups {
  std::vector<int64_t> rows;
  std::vector<int64_t> begins;
  std::vector<int64_t> positions;
};

// Every index is at least zero.
RowGroups GroupRows(IndexType type, const void* indices, int64_t num_indices);

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_ROW_GROUPS_H_
