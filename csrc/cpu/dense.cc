#include "cpu/dense.h"

#include <cstdint>

#include "block_codes.h"
#include "cpu/flush_subnormals.h"
#include "partition.h"

namespace tf_adadelta {
namespace {

// Long enough that claiming a block costs nothing, short enough to balance two threads.
constexpr int64_t kBlockElements = 32 * 1024;

// The elements of a call that hardly come from a cache: 64 MB of arrays in float32.
constexpr int64_t kMostCached = 4 * 1024 * 1024;

// The pieces of a list of variables that threads share out: of elements, or of the blocks in which
// their accumulators are stored.
class Pieces {
 public:
  Pieces(DType dtype, const std::vector<TensorUpdate>& updates)
      // Each of those blocks takes the place of a tile.
      : unit_(dtype == DType::kFloatUInt8State ? Partition::kTileElements : 1),
        partition_(CountsOf(updates, unit_),
                   unit_ == 1 ? kBlockElements : kBlockElements / kStateBlock * unit_) {}

  int64_t num_blocks() const { return partition_.num_blocks(); }
  bool from_memory() const { return num_blocks() > kMostCached / kBlockElements; }

  // Calls `visit(tensor, begin, end)` for each piece of a block.
  template <typename Visit>
  void ForEach(int64_t block, const Visit& visit) const {
    partition_.ForEachPiece(block, [&](size_t tensor, int64_t begin, int64_t end) {
      visit(tensor, begin / unit_, end / unit_);
    });
  }

 private:
  static std::vector<int64_t> CountsOf(const std::vector<TensorUpdate>& updates, int64_t unit) {
    std::vector<int64_t> counts;
    counts.reserve(updates.size());
    for (const TensorUpdate& update : updates) {
      counts.push_back(unit == 1 ? update.count : BlocksOf(update) * unit);
    }
    return counts;
  }

  int64_t unit_;
  Partition partition_;
};

}  // namespace

void DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                 const Hyperparameters& hyperparameters, const Options& options,
                 const Workers& workers, LoopKind kind, const InstructionSet& instruction_set) {
  const Pieces pieces(dtype, updates);

  const Options* const asked_for = IsPlain(updates, options) ? nullptr : &options;

  RunBlocks(pieces.num_blocks(), workers, [&](int64_t block) {
    [[maybe_unused]] const FlushSubnormals flush;
    pieces.ForEach(block, [&](size_t tensor, int64_t begin, int64_t end) {
      const double clip_factor = options.clip_factors ? options.clip_factors[tensor] : 1.0;
      instruction_set.dense_loop(kind, dtype, updates[tensor], begin, end, hyperparameters,
                                 asked_for, clip_factor, pieces.from_memory());
    });
  });
}

}  // namespace tf_adadelta
