// What one thread of each kernel of the sparse update does. It runs on the host too, where the
// tests call it for every thread of a launch.
//
// The rows of one gradient are sorted by their index, and the sorted ones are called slots. The
// first slot of each row of the variable stands for it. The kernels, one after the other:
//
// - KeyThread gives each row of the gradient the key that it is sorted by, and counts the update;
//   then the slots are sorted;
// - RowThread finds the slots of each row, what it catches up with, and sets its clock;
// - SumThread adds the gradients of rows that have very many, once for each level (row_sums.h);
// - UpdateThread adds the rest of each row, and updates it.
//
// Each thread takes every `num_threads`-th of what there is to do, so any number of them is enough.
#ifndef TF_ADADELTA_CUDA_SPARSE_THREAD_H_
#define TF_ADADELTA_CUDA_SPARSE_THREAD_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "adadelta.h"
#include "block_codes.h"
#include "cuda/compute.h"
#include "cuda/dense.h"
#include "cuda/state_block.h"
#include "cuda/warp.h"
#include "row_sums.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

inline constexpr int kSparseThreads = 256;
// The columns of a row that a thread handles, whose loads are all on their way at once, and the
// elements of the gradient that it loads before it adds them.
inline constexpr int kColumns = 4;
inline constexpr int kGradsAtOnce = 16;
// The columns of a row that a group of threads shares, a warp at most.
inline constexpr int kMostLanes = kWarpThreads;

// One variable with the slots of its gradient.
struct SparseTask {
  SparseTensorUpdate update;
  DeviceHyperparameters hyperparameters;  // With the seeds from that of this variable on.
  const uint64_t* keys;  // Of each slot: its row of the variable, or `rows` for none. Ascending.
  const int64_t* positions;  // Of each slot: its row of the gradient.
  int64_t* ends;             // Of the first slot of a row: behind its last one. Of others: 0.
  double* half_decays;       // Of the first slot of a row: what it catches up with (DecayIdle).
  // Rows of sums of each level, in the type of the arithmetic. A sum of `size` gradients that
  // begins with a slot is row slot / size; no other begins in the same `size` slots.
  void* sums[kSumLevels];
};

// How many rows the sums of a level may take.
template <int kLevel>
TF_ADADELTA_INLINE int64_t MostSums(const SparseTensorUpdate& update) {
  return update.num_indices / kRowsOfSum<kLevel>;
}

// How many of its lowest bits a key may have set; at least one.
inline int KeyBits(int64_t rows) {
  int bits = 1;
  while (bits < 63 && rows >> bits != 0) ++bits;
  return bits;
}

// The shape of a launch that works on rows: of each block of kSparseThreads, groups of 2^log2_lanes
// threads take a row each.
struct RowGrid {
  int log2_lanes;
  int64_t piece_columns;  // What a group takes of a row at once.
  int64_t blocks;         // Share the rows.
  int64_t pieces;         // Share the columns.

  TF_ADADELTA_INLINE int lanes() const { return 1 << log2_lanes; }
  TF_ADADELTA_INLINE int groups() const { return kSparseThreads >> log2_lanes; }
};

// `in_blocks`: whether it is a warp that takes a block (block_codes.h) at once.
inline RowGrid MakeRowGrid(bool in_blocks, int64_t rows, int64_t row_elements, int64_t max_blocks,
                           int64_t max_pieces) {
  RowGrid grid = {};
  grid.piece_columns = in_blocks ? kStateBlock : kMostLanes * kColumns;
  while (grid.lanes() < kMostLanes &&
         (in_blocks || row_elements > int64_t{kColumns} << grid.log2_lanes)) {
    ++grid.log2_lanes;
  }
  const auto parts = [](int64_t count, int64_t size) { return count / size + (count % size != 0); };
  grid.blocks = std::min(parts(rows, grid.groups()), max_blocks);
  grid.pieces = std::min(parts(row_elements, grid.piece_columns), max_pieces);
  return grid;
}

// Calls `visit(row, column)` for the rows, of `rows`, and the columns of the first of the kColumns
// elements, `lanes` apart from each other, that thread `thread` of block (block, piece) works on.
template <typename Visit>
TF_ADADELTA_INLINE void ForEachPiece(const RowGrid& grid, int64_t rows, int64_t row_elements,
                                     int64_t block, int64_t piece, int thread, const Visit& visit) {
  const int lane = thread & (grid.lanes() - 1);
  for (int64_t row = block * grid.groups() + (thread >> grid.log2_lanes); row < rows;
       row += grid.blocks * grid.groups()) {
    for (int64_t p = piece; p * grid.piece_columns < row_elements; p += grid.pieces) {
      visit(row, p * grid.piece_columns + lane);
    }
  }
}

template <typename Index>
TF_ADADELTA_INLINE bool IsRow(const SparseTensorUpdate& update, int64_t position) {
  const int64_t index = static_cast<const Index*>(update.indices)[position];
  return index >= 0 && index < update.rows;
}

// Returns the first position of those that the thread looks at whose index is out of range, or
// num_indices.
template <typename Index>
TF_ADADELTA_INLINE int64_t BadPosition(const SparseTensorUpdate& update, int64_t thread,
                                       int64_t num_threads) {
  for (int64_t i = thread; i < update.num_indices; i += num_threads) {
    if (!IsRow<Index>(update, i)) return i;
  }
  return update.num_indices;
}

template <typename Index>
TF_ADADELTA_INLINE void KeyThread(const SparseTensorUpdate& update, int64_t thread,
                                  int64_t num_threads, uint64_t* keys, int64_t* positions) {
  for (int64_t i = thread; i < update.num_indices; i += num_threads) {
    keys[i] = static_cast<uint64_t>(
        IsRow<Index>(update, i) ? static_cast<const Index*>(update.indices)[i] : update.rows);
    positions[i] = i;
  }
  if (thread == 0 && update.clock != nullptr) ++update.clock[update.rows];
}

// Returns the last slot from `slot` on, upwards (1) or downwards (-1), that has the same key. The
// step doubles until it is too long, and is halved from there: a row has one gradient mostly, and
// now and then thousands.
template <int kDirection>
TF_ADADELTA_INLINE int64_t EdgeOfRow(const SparseTask& task, int64_t slot) {
  const int64_t edge = kDirection > 0 ? task.update.num_indices - 1 : 0;
  const uint64_t key = task.keys[slot];
  const auto reaches = [&](int64_t step) {
    return step <= kDirection * (edge - slot) && task.keys[slot + kDirection * step] == key;
  };
  int64_t step = 1;
  while (reaches(step)) {
    slot += kDirection * step;
    step *= 2;
  }
  for (; step > 0; step /= 2) {
    if (reaches(step)) slot += kDirection * step;
  }
  return slot;
}

template <typename Compute>
TF_ADADELTA_INLINE void RowThread(const SparseTask& task, int64_t thread, int64_t num_threads) {
  const SparseTensorUpdate& update = task.update;
  for (int64_t slot = thread; slot < update.num_indices; slot += num_threads) {
    const uint64_t key = task.keys[slot];
    const bool first = slot == 0 || task.keys[slot - 1] != key;
    if (!first || key >= static_cast<uint64_t>(update.rows)) {
      task.ends[slot] = 0;
      continue;
    }
    task.ends[slot] = EdgeOfRow<1>(task, slot) + 1;
    task.half_decays[slot] = 1.0;
    if (update.clock == nullptr) continue;
    const int64_t now = update.clock[update.rows];  // This update counts already.
    task.half_decays[slot] =
        HalfDecay<Compute>(ReadScalar(task.hyperparameters.rho), now - 1, update.clock[key]);
    update.clock[key] = now;
  }
}

// Adds `count` rows to the sums of `columns` of their columns, in their order. `row_at(i)` returns
// where the first of these columns is in row i.
template <int columns, typename Compute, typename RowAt>
TF_ADADELTA_INLINE void AddRows(int64_t count, int64_t columns_left, int lanes, const RowAt& row_at,
                                Compute (&sum)[columns]) {
  constexpr int kRowsAtOnce = kGradsAtOnce / columns;
  using Value = std::remove_const_t<std::remove_pointer_t<decltype(row_at(0))>>;
  TF_ADADELTA_DO_NOT_UNROLL  // A count that is known would make it a wall of loads.
      for (int64_t next = 0; next < count; next += kRowsAtOnce) {
    Value values[kRowsAtOnce][columns] = {};
    TF_ADADELTA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (next + r < count) {
        const Value* const row = row_at(next + r);
        TF_ADADELTA_UNROLL
        for (int i = 0; i < columns; ++i) {
          if (i * lanes < columns_left) values[r][i] = row[i * lanes];
        }
      }
    }
    TF_ADADELTA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (next + r < count) {
        TF_ADADELTA_UNROLL
        for (int i = 0; i < columns; ++i) sum[i] += Load(values[r][i]);
      }
    }
  }
}

// Adds `count` gradients, from a slot on.
template <typename Storage, int columns, typename Compute>
TF_ADADELTA_INLINE void AddGradients(const SparseTask& task, int64_t slot, int64_t count,
                                     int64_t column, int lanes, Compute (&sum)[columns]) {
  const int64_t row_elements = task.update.row_elements;
  const Storage* const grad = static_cast<const Storage*>(task.update.grad) + column;
  AddRows(
      count, row_elements - column, lanes,
      [&](int64_t i) { return grad + task.positions[slot + i] * row_elements; }, sum);
}

// Adds the sums of the largest level that the gradients of `slots` slots have, and then of each
// smaller one those that are in none of these. Returns the slot behind them.
template <int kLevel, int columns, typename Compute>
TF_ADADELTA_INLINE int64_t AddSums(const SparseTask& task, int64_t slot, int64_t slots,
                                   int64_t column, int lanes, Compute (&sum)[columns]) {
  const int64_t row_elements = task.update.row_elements;
  constexpr int64_t kLarge = kRowsOfSum<kLevel>;
  constexpr int64_t kSmall = kRowsOfSum<kLevel - 1>;
  static_assert(kSumLevels == 2);
  const int64_t large = slots / kLarge;
  const int64_t small = kLevel > 1 ? slots % kLarge / kSmall : 0;
  const auto row_at = [&](int64_t i) {
    const int64_t begin = slot + (i < large ? i * kLarge : large * kLarge + (i - large) * kSmall);
    const int level = i < large ? kLevel : kLevel - 1;
    return static_cast<const Compute*>(task.sums[level - 1]) +
           begin / (i < large ? kLarge : kSmall) * row_elements + column;
  };
  AddRows(large + small, row_elements - column, lanes, row_at, sum);
  return slot + large * kLarge + small * kSmall;
}

// Returns the slot with which the sum begins that is row `row` of its level; -1 if there is none.
template <int kLevel>
TF_ADADELTA_INLINE int64_t StartOfSum(const SparseTask& task, int64_t row) {
  constexpr int64_t kSize = kRowsOfSum<kLevel>;
  const int64_t num_slots = task.update.num_indices;
  // It begins in the kSize slots that end with this one, and so has it.
  const int64_t last = (row + 1) * kSize - 1;
  const uint64_t key = task.keys[last];
  const auto has_key = [&](int64_t slot) { return slot < num_slots && task.keys[slot] == key; };
  if (key >= static_cast<uint64_t>(task.update.rows)) return -1;
  if (!has_key(last - kSize / 2) && !has_key(last + kSize / 2)) return -1;  // As nearly always.
  const int64_t first = EdgeOfRow<-1>(task, last);
  const int64_t before = row * kSize - first;
  const int64_t start = before <= 0 ? first : first + (before + kSize - 1) / kSize * kSize;
  return has_key(start + kSize - 1) ? start : -1;
}

// Thread `thread` of block (block, piece).
template <int kLevel, typename Storage>
TF_ADADELTA_INLINE void SumThread(const SparseTask& task, const RowGrid& grid, int64_t block,
                                  int64_t piece, int thread) {
  using Compute = ComputeOf<Storage>;
  const int64_t row_elements = task.update.row_elements;
  const int lanes = grid.lanes();
  const auto sum_up = [&](int64_t row, int64_t column) {
    const int64_t start = StartOfSum<kLevel>(task, row);
    if (start < 0) return;
    Compute sum[kColumns] = {kNothing, kNothing, kNothing, kNothing};
    if constexpr (kLevel == 1) {
      AddGradients<Storage>(task, start, kSumRows, column, lanes, sum);
    } else {
      AddSums<kLevel - 1>(task, start, kRowsOfSum<kLevel>, column, lanes, sum);
    }
    Compute* const out = static_cast<Compute*>(task.sums[kLevel - 1]) + row * row_elements + column;
    TF_ADADELTA_UNROLL
    for (int i = 0; i < kColumns; ++i) {
      if (i * lanes < row_elements - column) out[i * lanes] = sum[i];
    }
  };
  ForEachPiece(grid, MostSums<kLevel>(task.update), row_elements, block, piece, thread, sum_up);
}

// Updates an element. `accum_scalars` have the ε of `accum`.
template <typename Compute>
TF_ADADELTA_INLINE void UpdateElement(const Scalars<Compute>& scalars,
                                      const Scalars<Compute>& accum_scalars,
                                      const Compute& half_decay, const Compute& grad, Compute& var,
                                      Compute& accum, Compute& accum_update) {
  accum = DecayIdle<Compute>(half_decay, accum);
  accum_update = DecayIdle<Compute>(half_decay, accum_update);
  const Compute normalized_grad = AccumulateGradient<Compute>(accum_scalars, grad, accum);
  const Compute delta = AccumulateUpdate<Compute>(scalars, normalized_grad, accum_update);
  var = MoveVariable<Compute>(scalars, delta, var);
}

// Updates kColumns columns of the row of a slot.
template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void UpdateColumns(const SparseTask& task, const Scalars<Compute>& scalars,
                                      uint32_t first_counter, int64_t slot, int64_t end,
                                      int64_t first_column, int lanes) {
  const int64_t row_elements = task.update.row_elements;
  const int64_t columns_left = row_elements - first_column;
  const int64_t row = static_cast<int64_t>(task.keys[slot]) * row_elements + first_column;
  Storage* const var = static_cast<Storage*>(task.update.var) + row;
  using State = StateOf<Storage>;
  State* const accum = static_cast<State*>(task.update.accum) + row;
  State* const accum_update = static_cast<State*>(task.update.accum_update) + row;
  const auto half_decay = ToScalar<Compute>(task.half_decays[slot]);
  const uint32_t counter =
      CounterOfRow(first_counter, static_cast<int64_t>(task.keys[slot]), row_elements);

  Compute sum[kColumns] = {kNothing, kNothing, kNothing, kNothing};
  int64_t next = slot;
  if (end - slot >= kSumRows) {
    next = AddSums<kSumLevels>(task, slot, end - slot, first_column, lanes, sum);
  }
  Storage x[kColumns] = {};
  State a[kColumns] = {}, u[kColumns] = {};
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int column = i * lanes;
    if (column < columns_left) {
      x[i] = var[column];
      a[i] = accum[column];
      u[i] = accum_update[column];
    }
  }
  AddGradients<Storage>(task, next, end - next, first_column, lanes, sum);
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int column = i * lanes;
    if (column < columns_left) {
      Compute new_x = Load(x[i]), new_a = Load(a[i]), new_u = Load(u[i]);
      UpdateElement<Compute>(scalars, scalars, half_decay, sum[i], new_x, new_a, new_u);
      const RoundingOf<Storage> rounding =
          RoundingAt<Storage>(counter, static_cast<uint32_t>(first_column + column));
      StoreRounded(new_x, Other(rounding), &var[column]);
      StoreRounded(new_a, rounding, &accum[column]);
      StoreRounded(new_u, rounding, &accum_update[column]);
    }
  }
}

// Updates a block of the row of a slot, with a warp.
template <typename Storage>
TF_ADADELTA_INLINE void UpdateBlock(const SparseTask& task, const Scalars<float>& scalars,
                                    uint32_t first_counter, int64_t slot, int64_t end,
                                    int64_t first_column, const Warp& warp) {
  const auto row = static_cast<int64_t>(task.keys[slot]);
  const int64_t row_elements = task.update.row_elements;
  const BlockPlace place =
      PlaceOfBlock(row * BlocksOfRow(row_elements) + first_column / kStateBlock, row_elements);
  const int size = static_cast<int>(place.size);
  const uint32_t counter = first_counter + place.first_word;
  const auto half_decay = ToScalar<float>(task.half_decays[slot]);
  Storage* const var = static_cast<Storage*>(task.update.var) + place.first;
  uint8_t* const accum_at = static_cast<uint8_t*>(task.update.accum) + place.stored;
  uint8_t* const accum_update_at = static_cast<uint8_t*>(task.update.accum_update) + place.stored;

  struct Lane {
    float sum[kLaneElements];
    Storage x[kLaneElements];
    int64_t next;
  };
  PerLane<Lane> lanes;
  warp.ForEachLane([&](int lane) {
    Lane& own = lanes[lane];
    TF_ADADELTA_UNROLL
    for (int k = 0; k < kLaneElements; ++k) own.sum[k] = kNothing;
    own.next = slot;
    if (end - slot < kSumRows) return;
    own.next =
        AddSums<kSumLevels>(task, slot, end - slot, first_column + lane, kWarpThreads, own.sum);
  });
  ForEachOfBlock(warp, size, [&](int lane, int k, int i) { lanes[lane].x[k] = var[i]; });
  StateBlock accum, accum_update;
  accum.Load(warp, accum_at, size);
  accum_update.Load(warp, accum_update_at, size);
  warp.ForEachLane([&](int lane) {
    Lane& own = lanes[lane];
    AddGradients<Storage>(task, own.next, end - own.next, first_column + lane, kWarpThreads,
                          own.sum);
  });
  accum.ShareScale(warp);
  accum_update.ShareScale(warp);
  Scalars<float> accum_scalars = scalars;
  accum_scalars.epsilon += DecayIdle<float>(half_decay, accum.Resolution(warp));
  ForEachOfBlock(warp, size, [&](int lane, int k, int i) {
    const Lane& own = lanes[lane];
    float x = Load(own.x[k]), a = accum.Get(lane, k), u = accum_update.Get(lane, k);
    UpdateElement<float>(scalars, accum_scalars, half_decay, own.sum[k], x, a, u);
    var[i] = {x};
    accum.Set(lane, k, a);
    accum_update.Set(lane, k, u);
  });
  accum.Rescale(warp, size);
  accum_update.Rescale(warp, size);
  ForEachOfBlock(warp, size, [&](int lane, int k, int i) {
    const AtRandom rounding = RoundingAt<Storage>(counter, static_cast<uint32_t>(i));
    accum.Store(lane, k, i, rounding, accum_at);
    accum_update.Store(lane, k, i, rounding, accum_update_at);
  });
}

// Thread `thread` of block (block, piece).
template <typename Storage>
TF_ADADELTA_INLINE void UpdateThread(const SparseTask& task, const RowGrid& grid, int64_t block,
                                     int64_t piece, int thread) {
  using Compute = ComputeOf<Storage>;
  const Scalars<Compute> scalars = ReadScalars<Compute>(task.hyperparameters);
  const uint32_t counter = ReadCounter<Storage>(
      task.hyperparameters, task.hyperparameters.random.seeds, task.update.random_seed);
  const auto update = [&](int64_t slot, int64_t column) {
    const int64_t end = task.ends[slot];
    if (end == 0) return;
    if constexpr (kInBlocks<Storage>) {
      const Warp warp(thread);
      if (!warp.acts()) return;
      const int64_t first_column = column / kStateBlock * kStateBlock;
      UpdateBlock<Storage>(task, scalars, counter, slot, end, first_column, warp);
    } else {
      UpdateColumns<Storage, Compute>(task, scalars, counter, slot, end, column, grid.lanes());
    }
  };
  ForEachPiece(grid, task.update.num_indices, task.update.row_elements, block, piece, thread,
               update);
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_SPARSE_THREAD_H_
