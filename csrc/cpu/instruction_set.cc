#include "cpu/instruction_set.h"

#include <algorithm>

namespace tf_adadelta {

const std::vector<InstructionSet>& CompiledInstructionSets() {
  static const auto* const sets = new std::vector<InstructionSet>{
#if defined(TF_ADADELTA_X86)
      {"avx512",
       [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vl");
       },
       DenseLoopAvx512, SparseLoopAvx512, NormLoopAvx512},
      {"avx2",
       [] {
         return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("bmi2");
       },
       DenseLoopAvx2, SparseLoopAvx2, NormLoopAvx2},
#endif
      {"baseline", [] { return true; }, DenseLoopBaseline, SparseLoopBaseline, NormLoopBaseline},
  };
  return *sets;
}

const InstructionSet& BestInstructionSet() {
  static const InstructionSet& best =
      *std::find_if(CompiledInstructionSets().begin(), CompiledInstructionSets().end(),
                    [](const InstructionSet& set) { return set.supported(); });
  return best;
}

}  // namespace tf_adadelta
