// Cuts a list of tensors into blocks of equal work.
//
// A tensor is a whole number of tiles, a block a fixed number of consecutive tiles of the list: a
// block holds a piece of one huge tensor or many tiny ones, and no block starts inside a vector.
#ifndef TF_ADADELTA_PARTITION_H_
#define TF_ADADELTA_PARTITION_H_

#include <algorithm>
#include <cstdint>
#include <vector>

namespace tf_adadelta {

class Partition {
 public:
  static constexpr int64_t kTileElements = 64;

  // `counts` are the numbers of elements of the tensors; a block is `block_elements` long, a
  // multiple of kTileElements.
  Partition(const std::vector<int64_t>& counts, int64_t block_elements)
      : counts_(counts), tiles_per_block_(block_elements / kTileElements) {
    first_tiles_.reserve(counts.size() + 1);
    first_tiles_.push_back(0);
    for (const int64_t count : counts) {
      // Not (count + 63) / 64, which overflows for the largest counts.
      const int64_t tiles = count / kTileElements + (count % kTileElements != 0);
      first_tiles_.push_back(first_tiles_.back() + tiles);
    }
  }

  int64_t num_blocks() const {
    const int64_t tiles = first_tiles_.back();
    return tiles / tiles_per_block_ + (tiles % tiles_per_block_ != 0);
  }

  // Calls `visit(tensor, begin, end)` for each piece [begin, end) of a tensor in `block`.
  template <typename Visit>
  void ForEachPiece(int64_t block, const Visit& visit) const {
    int64_t tile = block * tiles_per_block_;
    const int64_t last = std::min(tile + tiles_per_block_, first_tiles_.back());
    auto next = std::upper_bound(first_tiles_.begin(), first_tiles_.end(), tile);
    while (tile < last) {
      const size_t tensor = next - first_tiles_.begin() - 1;
      const int64_t stop = std::min(last, *next);
      if (tile < stop) {  // An empty tensor has no tile.
        const int64_t begin = (tile - first_tiles_[tensor]) * kTileElements;
        const int64_t end =
            stop == *next ? counts_[tensor] : (stop - first_tiles_[tensor]) * kTileElements;
        visit(tensor, begin, end);
      }
      tile = stop;
      ++next;
    }
  }

 private:
  std::vector<int64_t> counts_;
  std::vector<int64_t> first_tiles_;  // One more than tensors: the last is the number of tiles.
  int64_t tiles_per_block_;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PARTITION_H_
