// The dense update of a list of variables on the CPU: one pass, one parallel region.
#ifndef TF_ADADELTA_CPU_DENSE_H_
#define TF_ADADELTA_CPU_DENSE_H_

#include <vector>

#include "api.h"
#include "cpu/instruction_set.h"
#include "cpu/parallel.h"
#include "tensor_update.h"

namespace tf_adadelta {

// Updates every variable of the list. The result does not depend on the number of threads.
TF_ADADELTA_API void DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                                 const Hyperparameters& hyperparameters, const Options& options,
                                 const Workers& workers, LoopKind kind = LoopKind::kAdadelta,
                                 const InstructionSet& instruction_set = BestInstructionSet());

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_DENSE_H_
