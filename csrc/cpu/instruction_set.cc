#include "cpu/instruction_set.h"

#include <algorithm>

#if defined(TF_ADADELTA_X86)
#include <cpuid.h>
#endif

namespace tf_adadelta {

#if defined(TF_ADADELTA_X86)
namespace {

// GCC before 11 knows no __builtin_cpu_supports("f16c").
bool HasF16c() {
  unsigned int a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

}  // namespace
#endif

const std::vector<InstructionSet>& CompiledInstructionSets() {
  static const auto* const sets = new std::vector<InstructionSet>{
#if defined(TF_ADADELTA_X86)
      {"avx512",
       [] {
         return HasF16c() && __builtin_cpu_supports("avx512f") &&
                __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
       },
       DenseLoopAvx512, SparseLoopAvx512, NormLoopAvx512},
      {"avx2",
       [] {
         return __builtin_cpu_supports("avx2") && HasF16c() && __builtin_cpu_supports("fma") &&
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
