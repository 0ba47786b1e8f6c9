#include "cpu/norms.h"

#include <algorithm>
#include <cstdint>

#include "cpu/flush_subnormals.h"
#include "partition.h"

namespace tf_adadelta {
namespace {

// As of the dense update.
constexpr int64_t kBlockElements = 32 * 1024;

}  // namespace

void SquaredNorms(DType dtype, const std::vector<NormInput>& inputs, double grad_scale,
                  double* squared_norms, const Workers& workers,
                  const InstructionSet& instruction_set) {
  std::vector<int64_t> counts;
  counts.reserve(inputs.size());
  for (const NormInput& input : inputs) counts.push_back(input.count);
  const Partition partition(counts, kBlockElements);
  // From one piece to the next the block, the tensor, or both go up: their sum names the piece.
  std::vector<double> pieces(partition.num_blocks() + inputs.size());
  RunBlocks(partition.num_blocks(), workers, [&](int64_t block) {
    [[maybe_unused]] const FlushSubnormals flush;
    partition.ForEachPiece(block, [&](size_t tensor, int64_t begin, int64_t end) {
      pieces[block + tensor] =
          instruction_set.norm_loop(dtype, inputs[tensor], begin, end, grad_scale);
    });
  });
  std::fill_n(squared_norms, inputs.size(), 0.0);
  for (int64_t block = 0; block < partition.num_blocks(); ++block) {
    partition.ForEachPiece(block, [&](size_t tensor, int64_t, int64_t) {
      squared_norms[tensor] += pieces[block + tensor];
    });
  }
}

}  // namespace tf_adadelta
