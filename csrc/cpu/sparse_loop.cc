// Compiled once for each instruction set, with TF_ADADELTA_SPARSE_LOOP naming the function; like
// dense_loop.cc, it defines nothing else that the linker could merge.
#include "cpu/sparse_loop.h"

#include <type_traits>

#include "adadelta.h"
#include "block_codes.h"
#include "cpu/packs.h"
#include "cpu/prefetch.h"
#include "cpu/state_block.h"
#include "row_sums.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// The elements of a row whose gradients are summed at once, in the first cache.
constexpr int64_t kChunk = 256;
static_assert(kChunk == kStateBlock);

// A chunk of a row of an accumulator.
template <typename Element, typename State = StateOf<Element>>
class Accumulator {
 public:
  using Compute = ComputeOf<PackOf<Element>>;

  TF_ADADELTA_INLINE Accumulator(State* chunk, int64_t) : chunk_(chunk) {}
  template <typename Count>
  TF_ADADELTA_INLINE Compute Get(int64_t i, [[maybe_unused]] Count count) const {
    if constexpr (std::is_same_v<State, Element>) {
      return LoadPack(chunk_ + i, count);
    } else {
      return Load(chunk_[i]);
    }
  }
  template <typename Count>
  TF_ADADELTA_INLINE void Set(int64_t i, [[maybe_unused]] Count count, const Compute& value,
                              RoundingOf<Element> rounding) {
    if constexpr (std::is_same_v<State, Element>) {
      StorePack(value, rounding, chunk_ + i, count);
    } else {
      Store(value, rounding, &chunk_[i]);
    }
  }
  TF_ADADELTA_INLINE const Scalars<Compute>& ScalarsOf(const Scalars<Compute>& scalars,
                                                       const Compute&) const {
    return scalars;
  }
  template <typename Roundings>
  TF_ADADELTA_INLINE void StoreChunk(const Roundings&) {}

 private:
  State* __restrict__ chunk_;
};

// One that is stored in blocks, of which a chunk is one.
template <typename Element>
class Accumulator<Element, uint8_t> {
 public:
  TF_ADADELTA_INLINE Accumulator(uint8_t* chunk, int64_t size) : chunk_(chunk), size_(size) {
    block_.Load(chunk, size);
  }
  template <typename Count>
  TF_ADADELTA_INLINE float Get(int64_t i, Count) const {
    return block_.Get(i);
  }
  template <typename Count>
  TF_ADADELTA_INLINE void Set(int64_t i, Count, float value, AtRandom) {
    block_.Set(i, value);
  }
  TF_ADADELTA_INLINE Scalars<float> ScalarsOf(const Scalars<float>& scalars, float decay) const {
    return block_.ScalarsOf(scalars, decay);
  }
  template <typename Roundings>
  TF_ADADELTA_INLINE void StoreChunk(const Roundings& roundings) {
    block_.Store(roundings, size_, chunk_);
  }

 private:
  uint8_t* chunk_;
  int64_t size_;
  StateBlock block_;
};

// The values of `kChunk` elements.
template <typename Element>
using Chunk = Values<ComputeOf<PackOf<Element>>, kChunk / kPackElements<Element>>;

// Adds `count` rows of a gradient, of which `size` elements are summed, to `sum` (row_sums.h).
template <int kLevel, typename Element>
TF_ADADELTA_INLINE void AddRows(const Element* grad, int64_t row_elements, const int64_t* positions,
                                int64_t count, int64_t size, Chunk<Element>& sum) {
  if constexpr (kLevel > 0) {
    for (; count >= kRowsOfSum<kLevel>; positions += kRowsOfSum<kLevel>) {
      Chunk<Element> part;
      part.Fill(kNothing);
      AddRows<kLevel - 1>(grad, row_elements, positions, kRowsOfSum<kLevel>, size, part);
      ForEachPack<Element>(size, [&](int64_t i, auto) __attribute__((always_inline)) {
        const int64_t pack = i / kPackElements<Element>;
        sum.Set(pack, sum.Get(pack) + part.Get(pack));
      });
      count -= kRowsOfSum<kLevel>;
    }
    AddRows<kLevel - 1>(grad, row_elements, positions, count, size, sum);
  } else {
    for (int64_t p = 0; p < count; ++p) {
      const Element* const next = grad + positions[p] * row_elements;
      ForEachPack<Element>(size, [&](int64_t i, auto left) __attribute__((always_inline)) {
        const int64_t pack = i / kPackElements<Element>;
        sum.Set(pack, sum.Get(pack) + LoadPack(next + i, left));
      });
    }
  }
}

template <typename Element>
TF_ADADELTA_INLINE void UpdateChunk(const Scalars<ComputeOf<PackOf<Element>>>& scalars,
                                    double half_decay, const Element* grad, int64_t row_elements,
                                    const int64_t* positions, int64_t num_positions, int64_t size,
                                    Element* __restrict__ var, StateOf<Element>* accum_chunk,
                                    StateOf<Element>* accum_update_chunk, uint32_t counter) {
  using Compute = ComputeOf<PackOf<Element>>;
  const Compute decay = ToScalar<Compute>(half_decay);
  Chunk<Element> sum;
  const Element* const first = grad + positions[0] * row_elements;
  ForEachPack<Element>(size, [&](int64_t i, auto left) __attribute__((always_inline)) {
    sum.Set(i / kPackElements<Element>, LoadPack(first + i, left));
  });
  if (num_positions < kSumRows) {
    AddRows<0>(grad, row_elements, positions + 1, num_positions - 1, size, sum);
  } else {
    sum.Fill(kNothing);
    AddRows<kSumLevels>(grad, row_elements, positions, num_positions, size, sum);
  }
  [[maybe_unused]] RandomHalves<kChunk> halves;
  if constexpr (kHasRandomHalves<Element>) halves.Fill(counter, size);
  const auto rounding_at = [&](int64_t i) __attribute__((always_inline)) {
    if constexpr (kHasRandomHalves<Element>) {
      return halves.Get(i);
    } else {
      return RoundingAt<PackOf<Element>>(counter, i / kPackElements<Element>);
    }
  };
  Accumulator<Element> accum(accum_chunk, size);
  Accumulator<Element> accum_update(accum_update_chunk, size);
  const Scalars<Compute> here = accum.ScalarsOf(scalars, decay);
  ForEachPack<Element>(size, [&](int64_t i, auto left) __attribute__((always_inline)) {
    Compute x = LoadPack(var + i, left);
    Compute a = DecayIdle<Compute>(decay, accum.Get(i, left));
    Compute u = DecayIdle<Compute>(decay, accum_update.Get(i, left));
    const Compute g = sum.Get(i / kPackElements<Element>);
    const Compute delta =
        AccumulateUpdate<Compute>(scalars, AccumulateGradient<Compute>(here, g, a), u);
    x = MoveVariable<Compute>(scalars, delta, x);
    const RoundingOf<Element> rounding = rounding_at(i);
    StorePack(x, Other(rounding), var + i, left);
    accum.Set(i, left, a, rounding);
    accum_update.Set(i, left, u, rounding);
  });
  accum.StoreChunk(halves);
  accum_update.StoreChunk(halves);
}

// Rows lie anywhere in memory, where no processor sees the next one coming.
constexpr int64_t kRowsAhead = 2;

template <typename Element>
TF_ADADELTA_INLINE void UpdateRows(const SparseTensorUpdate& update, const RowRange& range,
                                   const Hyperparameters& h) {
  const auto scalars = MakeScalars<ComputeOf<PackOf<Element>>>(h.learning_rate, h.rho, h.epsilon);
  Element* const var = static_cast<Element*>(update.var);
  using State = StateOf<Element>;
  State* const accum = static_cast<State*>(update.accum);
  State* const accum_update = static_cast<State*>(update.accum_update);
  const Element* const grad = static_cast<const Element*>(update.grad);
  const uint32_t first_counter = FirstCounter(update.random_seed, h.step);
  const int64_t row_bytes = update.row_elements * static_cast<int64_t>(sizeof(Element));
  const int64_t state_elements =
      kInBlocks<Element> ? BytesOfRow(update.row_elements) : update.row_elements;
  const int64_t state_bytes = state_elements * static_cast<int64_t>(sizeof(State));
  for (int64_t i = 0; i < range.num_rows; ++i) {
    if (i + kRowsAhead < range.num_rows) {
      const int64_t next = range.rows[i + kRowsAhead];
      Prefetch(var + next * update.row_elements, row_bytes);
      Prefetch(accum + next * state_elements, state_bytes);
      Prefetch(accum_update + next * state_elements, state_bytes);
      Prefetch(grad + range.positions[range.begins[i + kRowsAhead]] * update.row_elements,
               row_bytes);
    }
    const int64_t* const positions = range.positions + range.begins[i];
    const int64_t num_positions = range.begins[i + 1] - range.begins[i];
    const int64_t row = range.rows[i] * update.row_elements;
    const int64_t state_row = range.rows[i] * state_elements;
    const uint32_t counter = CounterOfRow(first_counter, range.rows[i], update.row_elements);
    const int64_t end = i == range.num_rows - 1 ? range.end_element : update.row_elements;
    for (int64_t chunk = i == 0 ? range.first_element : 0; chunk < end; chunk += kChunk) {
      const int64_t state_chunk = kInBlocks<Element> ? chunk + chunk / kStateBlock : chunk;
      UpdateChunk<Element>(scalars, range.half_decays[i], grad + chunk, update.row_elements,
                           positions, num_positions, end - chunk < kChunk ? end - chunk : kChunk,
                           var + row + chunk, accum + state_row + state_chunk,
                           accum_update + state_row + state_chunk,
                           counter + static_cast<uint32_t>(chunk / 2));
    }
  }
}

}  // namespace

void TF_ADADELTA_SPARSE_LOOP(DType dtype, const SparseTensorUpdate& update, const RowRange& range,
                             const Hyperparameters& h) {
  switch (dtype) {
    case DType::kHalf:
      return UpdateRows<Half>(update, range, h);
    case DType::kBFloat16:
      return UpdateRows<BFloat16>(update, range, h);
    case DType::kStochasticBFloat16:
      return UpdateRows<StochasticBFloat16>(update, range, h);
    case DType::kFloatBFloat16State:
      return UpdateRows<FloatBFloat16State>(update, range, h);
    case DType::kFloatUInt8State:
      return UpdateRows<FloatUInt8State>(update, range, h);
    case DType::kFloat:
      return UpdateRows<float>(update, range, h);
    case DType::kDouble:
      return UpdateRows<double>(update, range, h);
  }
}

}  // namespace tf_adadelta
