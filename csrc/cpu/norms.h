// The norms of a list of gradients on the CPU: one pass, one parallel region.
#ifndef TF_ADADELTA_CPU_NORMS_H_
#define TF_ADADELTA_CPU_NORMS_H_

#include <vector>

#include "api.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel.h"
#include "tensor_update.h"

namespace tf_adadelta {

// Writes the squared norm of grad_scale * grad + grad_accum of each input to `squared_norms`. The
// sums are in double, and their order does not depend on the number of threads.
TF_ADADELTA_API void SquaredNorms(DType dtype, const std::vector<NormInput>& inputs,
                                  double grad_scale, double* squared_norms, const Workers& workers,
                                  const InstructionSet& instruction_set = BestInstructionSet());

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_NORMS_H_
