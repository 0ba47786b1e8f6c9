#include "cpu/dense.h"

#include <cstdint>

#include "partition.h"

#if defined(TF_ADADELTA_X86)
#include <xmmintrin.h>
#endif

namespace tf_adadelta {
namespace {

// Accumulators that decay towards zero reach the subnormal numbers, each of which costs over a
// hundred cycles, so they are flushed to zero: TensorFlow's own threads do the same.
class FlushSubnormals {
#if defined(TF_ADADELTA_X86)
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }  // FTZ, DAZ.
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  const unsigned int saved_;
#elif defined(__aarch64__)
 public:
  FlushSubnormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(saved_ | (uint64_t{1} << 24)));  // FZ.
  }
  ~FlushSubnormals() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

// Long enough that claiming a block costs nothing, short enough to balance two threads.
constexpr int64_t kBlockElements = 32 * 1024;

}  // namespace

void DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                 const Hyperparameters& hyperparameters, const Workers& workers, LoopKind kind,
                 const InstructionSet& instruction_set) {
  std::vector<int64_t> counts;
  counts.reserve(updates.size());
  for (const TensorUpdate& update : updates) counts.push_back(update.count);
  const Partition partition(counts, kBlockElements);

  RunBlocks(partition.num_blocks(), workers, [&](int64_t block) {
    [[maybe_unused]] const FlushSubnormals flush;
    partition.ForEachPiece(block, [&](size_t tensor, int64_t begin, int64_t end) {
      instruction_set.dense_loop(kind, dtype, updates[tensor], begin, end, hyperparameters);
    });
  });
}

}  // namespace tf_adadelta
