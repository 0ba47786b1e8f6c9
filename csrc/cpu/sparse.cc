#include "cpu/sparse.h"

#include <algorithm>

#include "adadelta.h"
#include "block_codes.h"
#include "cpu/flush_subnormals.h"
#include "cpu/row_groups.h"
#include "partition.h"

namespace tf_adadelta {
namespace {

// Rows lie far from each other, so a block takes longer than a dense one of its size.
constexpr int64_t kBlockElements = 8 * 1024;

template <typename Index>
std::optional<int64_t> FindBadPosition(const SparseTensorUpdate& update) {
  const Index* const begin = static_cast<const Index*>(update.indices);
  const Index* const end = begin + update.num_indices;
  const Index* const bad =
      std::find_if(begin, end, [&](Index index) { return index < 0 || index >= update.rows; });
  if (bad == end) return std::nullopt;
  return bad - begin;
}

int64_t IndexAt(IndexType type, const void* indices, int64_t position) {
  return type == IndexType::kInt32 ? static_cast<const int32_t*>(indices)[position]
                                   : static_cast<const int64_t*>(indices)[position];
}

double HalfDecayOf(const SparseTensorUpdate& update, int64_t row, double rho, DType dtype) {
  if (update.clock == nullptr) return 1.0;
  const int64_t now = update.clock[update.rows];
  const int64_t caught_up = update.clock[row];
  return dtype == DType::kDouble ? HalfDecay<double>(rho, now, caught_up)
                                 : HalfDecay<float>(rho, now, caught_up);
}

// Where a block that ends or begins within a row does so: elements that share a word of random
// bits, or a scale of their accumulators, are in one block.
int64_t CutOf(DType dtype, int64_t column, int64_t row_elements) {
  const int64_t unit = dtype == DType::kFloatUInt8State ? kStateBlock : 2;
  return column == row_elements ? column : column / unit * unit;
}

}  // namespace

std::optional<BadIndex> FindBadIndex(IndexType index_type,
                                     const std::vector<SparseTensorUpdate>& updates) {
  for (size_t i = 0; i < updates.size(); ++i) {
    const std::optional<int64_t> position = index_type == IndexType::kInt32
                                                ? FindBadPosition<int32_t>(updates[i])
                                                : FindBadPosition<int64_t>(updates[i]);
    if (position) {
      return BadIndex{i, *position, IndexAt(index_type, updates[i].indices, *position),
                      updates[i].rows};
    }
  }
  return std::nullopt;
}

void SparseUpdate(DType dtype, IndexType index_type, const std::vector<SparseTensorUpdate>& updates,
                  const Hyperparameters& hyperparameters, const Workers& workers,
                  const InstructionSet& instruction_set) {
  std::vector<RowGroups> groups(updates.size());
  RunBlocks(static_cast<int64_t>(updates.size()), workers, [&](int64_t i) {
    groups[i] = GroupRows(index_type, updates[i].indices, updates[i].num_indices);
  });

  std::vector<int64_t> counts;
  counts.reserve(updates.size());
  for (size_t i = 0; i < updates.size(); ++i) {
    counts.push_back(static_cast<int64_t>(groups[i].rows.size()) * updates[i].row_elements);
  }
  const Partition partition(counts, kBlockElements);
  RunBlocks(partition.num_blocks(), workers, [&](int64_t block) {
    [[maybe_unused]] const FlushSubnormals flush;
    partition.ForEachPiece(block, [&](size_t i, int64_t begin, int64_t end) {
      const SparseTensorUpdate& update = updates[i];
      const int64_t first = begin / update.row_elements;
      const int64_t last = (end - 1) / update.row_elements;
      std::vector<double> half_decays;
      half_decays.reserve(last - first + 1);
      for (int64_t j = first; j <= last; ++j) {
        half_decays.push_back(HalfDecayOf(update, groups[i].rows[j], hyperparameters.rho, dtype));
      }
      instruction_set.sparse_loop(
          dtype, update,
          {groups[i].rows.data() + first, groups[i].begins.data() + first,
           groups[i].positions.data(), half_decays.data(), last - first + 1,
           CutOf(dtype, begin - first * update.row_elements, update.row_elements),
           CutOf(dtype, end - last * update.row_elements, update.row_elements)},
          hyperparameters);
    });
  });

  // Only now, since several blocks may share a row.
  for (size_t i = 0; i < updates.size(); ++i) {
    if (updates[i].clock == nullptr) continue;
    const int64_t now = ++updates[i].clock[updates[i].rows];
    for (const int64_t row : groups[i].rows) updates[i].clock[row] = now;
  }
}

}  // namespace tf_adadelta
