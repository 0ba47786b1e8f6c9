// The inner loop of the norms, compiled once for each instruction set.
#ifndef TF_ADADELTA_CPU_NORM_LOOP_H_
#define TF_ADADELTA_CPU_NORM_LOOP_H_

#include <cstdint>

#include "tensor_update.h"

namespace tf_adadelta {

// Returns the sum of the squares of the elements [begin, end) of grad_scale * grad + grad_accum.
using NormLoop = double(DType dtype, const NormInput& input, int64_t begin, int64_t end,
                        double grad_scale);

NormLoop NormLoopBaseline;
NormLoop NormLoopAvx2;
NormLoop NormLoopAvx512;

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_NORM_LOOP_H_
