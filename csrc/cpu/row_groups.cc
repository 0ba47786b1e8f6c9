#include "cpu/row_groups.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace tf_adadelta {
namespace {

// Sorts the positions by their index and keeps the order of equal ones: a radix sort, which takes a
// third of the time of std::stable_sort for 4,096 indices and a sixth for 262,144.
template <typename Index>
std::vector<int64_t> SortedPositions(const Index* indices, int64_t num_indices, Index largest) {
  constexpr int kBits = 11;
  constexpr size_t kBuckets = size_t{1} << kBits;
  std::vector<int64_t> positions(num_indices);
  std::iota(positions.begin(), positions.end(), 0);
  std::vector<int64_t> sorted(num_indices);
  for (int shift = 0; shift == 0 || largest >> shift != 0; shift += kBits) {
    const auto bucket = [&](int64_t position) {
      return static_cast<size_t>(indices[position] >> shift) & (kBuckets - 1);
    };
    std::array<int64_t, kBuckets> next{};
    for (int64_t position = 0; position < num_indices; ++position) ++next[bucket(position)];
    std::exclusive_scan(next.begin(), next.end(), next.begin(), int64_t{0});
    for (const int64_t position : positions) sorted[next[bucket(position)]++] = position;
    positions.swap(sorted);
    if (shift + kBits >= static_cast<int>(8 * sizeof(Index))) break;
  }
  return positions;
}

template <typename Index>
RowGroups Group(const Index* indices, int64_t num_indices) {
  RowGroups groups;
  if (num_indices > 0) {
    const Index largest = *std::max_element(indices, indices + num_indices);
    groups.positions = SortedPositions(indices, num_indices, largest);
  }
  groups.rows.reserve(num_indices);
  groups.begins.reserve(num_indices + 1);
  for (int64_t i = 0; i < num_indices; ++i) {
    const int64_t row = indices[groups.positions[i]];
    if (groups.rows.empty() || groups.rows.back() != row) {
      groups.rows.push_back(row);
      groups.begins.push_back(i);
    }
  }
  groups.begins.push_back(num_indices);
  return groups;
}

}  // namespace

RowGroups GroupRows(IndexType type, const void* indices, int64_t num_indices) {
  return type == IndexType::kInt32 ? Group(static_cast<const int32_t*>(indices), num_indices)
                                   : Group(static_cast<const int64_t*>(indices), num_indices);
}

}  // namespace tf_adadelta
