#include "cpu/dense.h"

#include <cstdint>

#include "cpu/flush_subnormals.h"
#include "partition.h"

namespace tf_adadelta {
namespace {

// Long enough that claiming a block costs nothing, short enough to balance two threads.
constexpr int64_t kBlockElements = 32 * 1024;

}  // namespace

void DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                 const Hyperparameters& hyperparameters, const Options& options,
                 const Workers& workers, LoopKind kind, const InstructionSet& instruction_set) {
  std::vector<int64_t> counts;
  counts.reserve(updates.size());
  for (const TensorUpdate& update : updates) counts.push_back(update.count);
  const Partition partition(counts, kBlockElements);

  const Options* const asked_for = IsPlain(updates, options) ? nullptr : &options;

  RunBlocks(partition.num_blocks(), workers, [&](int64_t block) {
    [[maybe_unused]] const FlushSubnormals flush;
    partition.ForEachPiece(block, [&](size_t tensor, int64_t begin, int64_t end) {
      const double clip_factor = options.clip_factors ? options.clip_factors[tensor] : 1.0;
      instruction_set.dense_loop(kind, dtype, updates[tensor], begin, end, hyperparameters,
                                 asked_for, clip_factor);
    });
  });
}

}  // namespace tf_adadelta
