// What one thread of each kernel of the sparse update does. It runs on the host too, where the
// tests call it for every thread of a launch.
//
// The rows of one gradient are sorted by their index, and the sorted ones are called slots. The
// first slot of each row of the variable stands for it. The kernels, one after the other:
//
//   KeyThread     gives each row of the gradient the key that it is sorted by, and counts the
//   update (sort) RowThread     finds the slots of each row, what it catches up with, and sets its
//   clock UpdateThread  sums the gradients of each row, in their order, and updates it
//
// Each thread takes every `num_threads`-th of what there is to do, so any number of them is enough.
#ifndef TF_ADADELTA_CUDA_SPARSE_THREAD_H_
#define TF_ADADELTA_CUDA_SPARSE_THREAD_H_

#include <algorithm>
#include <cstdint>

#include "adadelta.h"
#include "cuda/compute.h"
#include "cuda/dense.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

inline constexpr int kSparseThreads = 256;
// The columns of a row that a thread handles, whose loads are all on their way at once, and the
// rows of the gradient that it loads before it adds them.
inline constexpr int kColumns = 4;
inline constexpr int kRowsAtOnce = 4;
// The columns of a row that a group of threads shares, a warp at most.
inline constexpr int kMostLanes = 32;
inline constexpr int64_t kPieceColumns = kMostLanes * kColumns;

// One variable with the slots of its gradient.
struct SparseTask {
  SparseTensorUpdate update;
  DeviceHyperparameters hyperparameters;
  const uint64_t* keys;  // Of each slot: its row of the variable, or `rows` for none. Ascending.
  const int64_t* positions;  // Of each slot: its row of the gradient.
  int64_t* ends;             // Of the first slot of a row: behind its last one. Of others: 0.
  double* half_decays;       // Of the first slot of a row: what it catches up with (DecayIdle).
};

// How many of its lowest bits a key may have set; at least one.
inline int KeyBits(int64_t rows) {
  int bits = 1;
  while (bits < 63 && rows >> bits != 0) ++bits;
  return bits;
}

// The shape of the launch of UpdateThread: of each block of kSparseThreads, groups of 2^log2_lanes
// threads take a slot each.
struct UpdateGrid {
  int log2_lanes;
  int64_t blocks;  // Share the slots.
  int64_t pieces;  // Share the columns.
};

inline UpdateGrid MakeUpdateGrid(const SparseTensorUpdate& update, int64_t max_blocks,
                                 int64_t max_pieces) {
  UpdateGrid grid = {};
  while ((1 << grid.log2_lanes) < kMostLanes && update.row_elements > int64_t{kColumns}
                                                                          << grid.log2_lanes) {
    ++grid.log2_lanes;
  }
  const int64_t slots = kSparseThreads >> grid.log2_lanes;
  const auto parts = [](int64_t count, int64_t size) { return count / size + (count % size != 0); };
  grid.blocks = std::min(parts(update.num_indices, slots), max_blocks);
  grid.pieces = std::min(parts(update.row_elements, kPieceColumns), max_pieces);
  return grid;
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

// Returns the slot behind the last one that has the key of `slot`. The step doubles until it is too
// long, and is halved from there: a row has one gradient mostly, and now and then thousands.
TF_ADADELTA_INLINE int64_t EndOfRow(const SparseTask& task, int64_t slot) {
  const int64_t num_slots = task.update.num_indices;
  const uint64_t key = task.keys[slot];
  int64_t step = 1;
  while (step < num_slots - slot && task.keys[slot + step] == key) {
    slot += step;
    step *= 2;
  }
  for (; step > 0; step /= 2) {
    if (step < num_slots - slot && task.keys[slot + step] == key) slot += step;
  }
  return slot + 1;
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
    task.ends[slot] = EndOfRow(task, slot);
    task.half_decays[slot] = 1.0;
    if (update.clock == nullptr) continue;
    const int64_t now = update.clock[update.rows];  // This update counts already.
    const int64_t idle = now - 1 - update.clock[key];
    task.half_decays[slot] = HalfDecay<Compute>(ReadScalar(task.hyperparameters.rho), idle);
    update.clock[key] = now;
  }
}

// Updates kColumns columns of the row of a slot: those of `lane` in a piece of the row.
template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void UpdateColumns(const SparseTask& task, const Scalars<Compute>& scalars,
                                      int64_t slot, int64_t end, int64_t first_column, int lanes) {
  const int64_t row_elements = task.update.row_elements;
  const int64_t columns_left = row_elements - first_column;
  const int64_t row = static_cast<int64_t>(task.keys[slot]) * row_elements + first_column;
  Storage* const var = static_cast<Storage*>(task.update.var) + row;
  Storage* const accum = static_cast<Storage*>(task.update.accum) + row;
  Storage* const accum_update = static_cast<Storage*>(task.update.accum_update) + row;
  const Storage* const grad = static_cast<const Storage*>(task.update.grad) + first_column;
  const auto half_decay = static_cast<Compute>(task.half_decays[slot]);

  Storage x[kColumns] = {}, a[kColumns] = {}, u[kColumns] = {};
  Compute sum[kColumns] = {};
  const Storage* const first = grad + task.positions[slot] * row_elements;
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int column = i * lanes;
    if (column < columns_left) {
      x[i] = var[column];
      a[i] = accum[column];
      u[i] = accum_update[column];
      sum[i] = Load(first[column]);
    }
  }
  for (int64_t next = slot + 1; next < end; next += kRowsAtOnce) {
    Storage g[kRowsAtOnce][kColumns] = {};
    TF_ADADELTA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (next + r < end) {
        const Storage* const grad_row = grad + task.positions[next + r] * row_elements;
        TF_ADADELTA_UNROLL
        for (int i = 0; i < kColumns; ++i) {
          if (i * lanes < columns_left) g[r][i] = grad_row[i * lanes];
        }
      }
    }
    TF_ADADELTA_UNROLL
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (next + r < end) {
        TF_ADADELTA_UNROLL
        for (int i = 0; i < kColumns; ++i) sum[i] += Load(g[r][i]);
      }
    }
  }
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kColumns; ++i) {
    const int column = i * lanes;
    if (column < columns_left) {
      Compute new_x = Load(x[i]);
      Compute new_a = DecayIdle<Compute>(half_decay, Load(a[i]));
      Compute new_u = DecayIdle<Compute>(half_decay, Load(u[i]));
      const Compute normalized_grad = AccumulateGradient<Compute>(scalars, sum[i], new_a);
      const Compute delta = AccumulateUpdate<Compute>(scalars, normalized_grad, new_u);
      new_x = MoveVariable<Compute>(scalars, delta, new_x);
      Store(new_x, &var[column]);
      Store(new_a, &accum[column]);
      Store(new_u, &accum_update[column]);
    }
  }
}

// Thread `thread` of block (block, piece).
template <typename Storage>
TF_ADADELTA_INLINE void UpdateThread(const SparseTask& task, const UpdateGrid& grid, int64_t block,
                                     int64_t piece, int thread) {
  using Compute = typename ComputeOf<Storage>::type;
  const int lanes = 1 << grid.log2_lanes;
  const int slots = kSparseThreads >> grid.log2_lanes;
  const int lane = thread & (lanes - 1);
  const Scalars<Compute> scalars = ReadScalars<Compute>(task.hyperparameters);
  for (int64_t slot = block * slots + (thread >> grid.log2_lanes); slot < task.update.num_indices;
       slot += grid.blocks * slots) {
    const int64_t end = task.ends[slot];
    if (end == 0) continue;
    for (int64_t p = piece; p * kPieceColumns < task.update.row_elements; p += grid.pieces) {
      UpdateColumns<Storage, Compute>(task, scalars, slot, end, p * kPieceColumns + lane, lanes);
    }
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_SPARSE_THREAD_H_
