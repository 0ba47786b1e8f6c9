// Which instruction sets were compiled in, which the processor has, and which one is used.
#ifndef TF_ADADELTA_CPU_INSTRUCTION_SET_H_
#define TF_ADADELTA_CPU_INSTRUCTION_SET_H_

#include <vector>

#include "api.h"
#include "cpu/dense_loop.h"
#include "cpu/norm_loop.h"
#include "cpu/sparse_loop.h"

namespace tf_adadelta {

struct InstructionSet {
  const char* name;
  bool (*supported)();
  DenseLoop* dense_loop;
  SparseLoop* sparse_loop;
  NormLoop* norm_loop;
};

// Those that were compiled in, the widest first; the last is supported everywhere.
TF_ADADELTA_API const std::vector<InstructionSet>& CompiledInstructionSets();

// The widest that this processor supports.
TF_ADADELTA_API const InstructionSet& BestInstructionSet();

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_INSTRUCTION_SET_H_
