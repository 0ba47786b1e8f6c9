// Compiled once for each instruction set, with TF_ADADELTA_SPARSE_LOOP naming the function; like
// dense_loop.cc, it defines nothing else that the linker could merge.
#include "cpu/sparse_loop.h"

#include "adadelta.h"
#include "row_sums.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// The elements of a row whose gradients are summed at once, in the first cache.
constexpr int64_t kChunk = 256;

// Adds `count` rows of a gradient, of `size` elements each, to `sum` (row_sums.h).
template <int kLevel, typename Storage, typename Compute>
TF_ADADELTA_INLINE void AddRows(const Storage* grad, int64_t row_elements, const int64_t* positions,
                                int64_t count, int64_t size, Compute* __restrict__ sum) {
  if constexpr (kLevel > 0) {
    for (; count >= kRowsOfSum<kLevel>; positions += kRowsOfSum<kLevel>) {
      alignas(64) Compute part[kChunk];
      for (int64_t i = 0; i < size; ++i) part[i] = kNothing;
      AddRows<kLevel - 1>(grad, row_elements, positions, kRowsOfSum<kLevel>, size, part);
      for (int64_t i = 0; i < size; ++i) sum[i] += part[i];
      count -= kRowsOfSum<kLevel>;
    }
    AddRows<kLevel - 1>(grad, row_elements, positions, count, size, sum);
  } else {
    for (int64_t p = 0; p < count; ++p) {
      const Storage* const next = grad + positions[p] * row_elements;
      for (int64_t i = 0; i < size; ++i) sum[i] += Load(next[i]);
    }
  }
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void UpdateChunk(const Scalars<Compute>& scalars, Compute half_decay,
                                    const Storage* grad, int64_t row_elements,
                                    const int64_t* positions, int64_t num_positions, int64_t size,
                                    Storage* __restrict__ var, Storage* __restrict__ accum,
                                    Storage* __restrict__ accum_update) {
  alignas(64) Compute sum[kChunk];
  const Storage* const first = grad + positions[0] * row_elements;
  for (int64_t i = 0; i < size; ++i) sum[i] = Load(first[i]);
  if (num_positions < kSumRows) {
    AddRows<0>(grad, row_elements, positions + 1, num_positions - 1, size, sum);
  } else {
    for (int64_t i = 0; i < size; ++i) sum[i] = kNothing;
    AddRows<kSumLevels>(grad, row_elements, positions, num_positions, size, sum);
  }
  for (int64_t i = 0; i < size; ++i) {
    Compute x = Load(var[i]);
    Compute a = DecayIdle<Compute>(half_decay, Load(accum[i]));
    Compute u = DecayIdle<Compute>(half_decay, Load(accum_update[i]));
    const Compute normalized_grad = AccumulateGradient<Compute>(scalars, sum[i], a);
    const Compute delta = AccumulateUpdate<Compute>(scalars, normalized_grad, u);
    x = MoveVariable<Compute>(scalars, delta, x);
    Store(x, &var[i]);
    Store(a, &accum[i]);
    Store(u, &accum_update[i]);
  }
}

// Rows lie anywhere in memory, where no processor sees the next one coming.
constexpr int64_t kRowsAhead = 2;

TF_ADADELTA_INLINE void Prefetch(const void* row, int64_t bytes) {
  constexpr int64_t kLine = 64;
  constexpr int64_t kMostLines = 16;
  const char* const begin = static_cast<const char*>(row);
  for (int64_t line = 0; line < kMostLines && line * kLine < bytes; ++line) {
    __builtin_prefetch(begin + line * kLine);
  }
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void UpdateRows(const SparseTensorUpdate& update, const RowRange& range,
                                   const Hyperparameters& h) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  Storage* const var = static_cast<Storage*>(update.var);
  Storage* const accum = static_cast<Storage*>(update.accum);
  Storage* const accum_update = static_cast<Storage*>(update.accum_update);
  const Storage* const grad = static_cast<const Storage*>(update.grad);
  const int64_t row_bytes = update.row_elements * static_cast<int64_t>(sizeof(Storage));
  for (int64_t i = 0; i < range.num_rows; ++i) {
    if (i + kRowsAhead < range.num_rows) {
      const int64_t next = range.rows[i + kRowsAhead] * update.row_elements;
      Prefetch(var + next, row_bytes);
      Prefetch(accum + next, row_bytes);
      Prefetch(accum_update + next, row_bytes);
      Prefetch(grad + range.positions[range.begins[i + kRowsAhead]] * update.row_elements,
               row_bytes);
    }
    const int64_t row = range.rows[i] * update.row_elements;
    const int64_t end = i == range.num_rows - 1 ? range.end_element : update.row_elements;
    for (int64_t chunk = i == 0 ? range.first_element : 0; chunk < end; chunk += kChunk) {
      UpdateChunk<Storage, Compute>(
          scalars, static_cast<Compute>(range.half_decays[i]), grad + chunk, update.row_elements,
          range.positions + range.begins[i], range.begins[i + 1] - range.begins[i],
          end - chunk < kChunk ? end - chunk : kChunk, var + row + chunk, accum + row + chunk,
          accum_update + row + chunk);
    }
  }
}

}  // namespace

void TF_ADADELTA_SPARSE_LOOP(DType dtype, const SparseTensorUpdate& update, const RowRange& range,
                             const Hyperparameters& h) {
  switch (dtype) {
    case DType::kHalf:
      return UpdateRows<Half, float>(update, range, h);
    case DType::kBFloat16:
      return UpdateRows<BFloat16, float>(update, range, h);
    case DType::kFloat:
      return UpdateRows<float, float>(update, range, h);
    case DType::kDouble:
      return UpdateRows<double, double>(update, range, h);
  }
}

}  // namespace tf_adadelta
