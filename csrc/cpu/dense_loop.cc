// Compiled once for each instruction set, with TF_ADADELTA_DENSE_LOOP naming the function.
//
// Everything here but that function is inlined or internal: an inline library function compiled for
// AVX-512 could otherwise be the copy that the linker keeps for the whole library.
#include "cpu/dense_loop.h"

#include <type_traits>

#include "adadelta.h"
#include "block_codes.h"
#include "cpu/packs.h"
#include "cpu/prefetch.h"
#include "cpu/state_block.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// Of the values that are handed on.
constexpr int64_t kChunkBytes = 1024;
template <typename Value>
inline constexpr int64_t kChunkOf = kChunkBytes / sizeof(Value);

// What a stage takes at once: a block of accumulators in blocks, else as many elements as a chunk
// has, with `stored` like `first`.
using Chunk = BlockPlace;

// The elements [begin, end) of a variable, in chunks of kSize.
template <int64_t kSize>
class FlatChunks {
 public:
  TF_ADADELTA_INLINE FlatChunks(const TensorUpdate&, int64_t begin, int64_t end)
      : begin_(begin), end_(end) {}
  TF_ADADELTA_INLINE int64_t count() const { return (end_ - begin_ + kSize - 1) / kSize; }
  TF_ADADELTA_INLINE Chunk operator[](int64_t chunk) const {
    const int64_t first = begin_ + chunk * kSize;
    return {first, end_ - first < kSize ? end_ - first : kSize, first,
            static_cast<uint32_t>(first / 2)};
  }

 private:
  int64_t begin_;
  int64_t end_;
};

// The blocks [begin, end) of the accumulators of a variable, each a chunk.
class BlockChunks {
 public:
  TF_ADADELTA_INLINE BlockChunks(const TensorUpdate& update, int64_t begin, int64_t end)
      : row_elements_(update.row_elements), begin_(begin), end_(end) {}
  TF_ADADELTA_INLINE int64_t count() const { return end_ - begin_; }
  TF_ADADELTA_INLINE Chunk operator[](int64_t chunk) const {
    return PlaceOfBlock(begin_ + chunk, row_elements_);
  }

 private:
  int64_t row_elements_;
  int64_t begin_;
  int64_t end_;
};

template <typename Storage>
using ChunksOf =
    std::conditional_t<kInBlocks<Storage>, BlockChunks, FlatChunks<kChunkOf<ComputeOf<Storage>>>>;

// Asks for what is two chunks further on.
template <typename Element>
TF_ADADELTA_INLINE void PrefetchAhead(const Element* array, int64_t first, int64_t size) {
  constexpr int64_t kChunksAhead = 2;
  constexpr int64_t kBytes = sizeof(Element);
  Prefetch(reinterpret_cast<const char*>(array) + (first + kChunksAhead * size) * kBytes,
           size * kBytes);
}

// What the stages of an update hand on: a value, and how the element is rounded by all of them.
template <typename Storage>
struct Rounded {
  ComputeOf<Storage> value;
  RoundingOf<Storage> rounding;
};

template <typename Storage>
class RoundedValues {
 public:
  // Begins with `size` elements, the first two of which have the random bits of `counter`.
  TF_ADADELTA_INLINE void Start([[maybe_unused]] uint32_t counter, [[maybe_unused]] int64_t size) {
    if constexpr (kHasRandomHalves<Storage>) roundings_.Fill(counter, size);
  }
  TF_ADADELTA_INLINE Rounded<Storage> Get(int64_t i) const {
    return {values_.Get(i), roundings_.Get(i)};
  }
  TF_ADADELTA_INLINE void Set(int64_t i, const Rounded<Storage>& value) {
    values_.Set(i, value.value);
    if constexpr (!kHasRandomHalves<Storage>) roundings_.Set(i, value.rounding);
  }
  TF_ADADELTA_INLINE const auto& roundings() const { return roundings_; }

 private:
  static constexpr int64_t kSize = kChunkOf<ComputeOf<Storage>>;

  Values<ComputeOf<Storage>, kSize> values_;
  std::conditional_t<kHasRandomHalves<Storage>, RandomHalves<kSize>,
                     Values<RoundingOf<Storage>, kSize>>
      roundings_;
};

// An accumulator, as the loop over a chunk reads and writes it.
template <typename Storage, typename State = StateOf<Storage>>
class Accumulator {
 public:
  using Compute = ComputeOf<Storage>;

  TF_ADADELTA_INLINE Accumulator(void* state, bool from_memory)
      : state_(static_cast<State*>(state)), from_memory_(from_memory) {}

  TF_ADADELTA_INLINE void LoadChunk(const Chunk& chunk) {
    if (from_memory_) PrefetchAhead(state_, chunk.first, chunk.size);
  }
  TF_ADADELTA_INLINE Compute Get(int64_t i) const { return Load(state_[i]); }
  TF_ADADELTA_INLINE void Set(int64_t i, const Compute& value, RoundingOf<Storage> rounding) {
    Store(value, rounding, &state_[i]);
  }
  TF_ADADELTA_INLINE void StoreChunk(const Chunk&, const RoundedValues<Storage>&) {}
  // The ε for a chunk of it.
  TF_ADADELTA_INLINE const Scalars<Compute>& ScalarsOf(const Scalars<Compute>& scalars) const {
    return scalars;
  }

 private:
  State* __restrict__ state_;
  bool from_memory_;
};

// One that is stored in blocks.
template <typename Storage>
class Accumulator<Storage, uint8_t> {
 public:
  TF_ADADELTA_INLINE Accumulator(void* state, bool from_memory)
      : state_(static_cast<uint8_t*>(state)), from_memory_(from_memory) {}

  TF_ADADELTA_INLINE void LoadChunk(const Chunk& chunk) {
    if (from_memory_) PrefetchAhead(state_, chunk.stored, chunk.size);
    first_ = chunk.first;
    block_.Load(state_ + chunk.stored, chunk.size);
  }
  TF_ADADELTA_INLINE float Get(int64_t i) const { return block_.Get(i - first_); }
  TF_ADADELTA_INLINE void Set(int64_t i, float value, AtRandom) { block_.Set(i - first_, value); }
  TF_ADADELTA_INLINE void StoreChunk(const Chunk& chunk, const RoundedValues<Storage>& values) {
    block_.Store(values.roundings(), chunk.size, state_ + chunk.stored);
  }
  TF_ADADELTA_INLINE Scalars<float> ScalarsOf(const Scalars<float>& scalars) const {
    return block_.ScalarsOf(scalars);
  }

 private:
  uint8_t* state_;
  bool from_memory_;
  int64_t first_ = 0;
  StateBlock block_;
};

// Calls `use` with the index of each element of a chunk and the value of it that is handed on.
template <typename HandedOn, typename Use>
TF_ADADELTA_INLINE void ForEach(const Chunk& chunk, HandedOn& handed_on, const Use& use) {
  // What restrict says is lost in the calls of a stage.
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
  for (int64_t i = 0; i < chunk.size; ++i) {
    auto value = handed_on.Get(i);
    use(chunk.first + i, value);
    handed_on.Set(i, value);
  }
}

// Runs the stages of a step over chunks, the last stage named first. Each is called with a chunk
// and the values of it that are handed on from stage to stage, and `start` before all of them.
//
// Arrays that are visited at the same index fight for the same bank of the memory, and for the same
// lines of the first cache, where their addresses are alike, as those of large allocations are. So
// each stage is a chunk behind the one before, and what it is handed waits in that cache
// (docs/design.md).
template <typename HandedOn, typename Chunks, typename Start, typename... Stages>
TF_ADADELTA_INLINE void RunStages(const Chunks& chunks, const Start& start,
                                  const Stages&... stages) {
  constexpr int kNumStages = sizeof...(Stages);
  HandedOn handed_on[kNumStages];
  const auto run = [&](int64_t chunk, const auto& stage) __attribute__((always_inline)) {
    if (chunk < 0 || chunk >= chunks.count()) return;
    stage(chunks[chunk], handed_on[chunk % kNumStages]);
  };
  constexpr int64_t kBehind = kNumStages - 1;
  for (int64_t chunk = -kBehind; chunk < chunks.count(); ++chunk) {
    run(chunk + kBehind, start);
    int64_t c = chunk;
    (run(c++, stages), ...);
  }
}

// `kAverage` and `kGradAccum`: whether the variable has these buffers. `counter`: of its random
// bits.
template <typename Storage, typename Compute, bool kOptions, bool kAverage, bool kGradAccum>
TF_ADADELTA_INLINE void Adadelta(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Scalars<Compute>& scalars,
                                 const OptionScalars<Compute>& options,
                                 [[maybe_unused]] bool decays, uint32_t counter, bool from_memory) {
  Storage* __restrict__ const var = static_cast<Storage*>(update.var);
  Accumulator<Storage> accum(update.accum, from_memory);
  Accumulator<Storage> accum_update(update.accum_update, from_memory);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  [[maybe_unused]] Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  [[maybe_unused]] Storage* __restrict__ const grad_accum =
      static_cast<Storage*>(update.grad_accum);

  const auto prefetch = [from_memory](const auto* array, const Chunk& chunk)
                            __attribute__((always_inline)) {
                              if (from_memory) PrefetchAhead(array, chunk.first, chunk.size);
                            };
  using Value = Rounded<Storage>;
  using HandedOn = RoundedValues<Storage>;
  const auto start = [counter](const Chunk& chunk, HandedOn& handed_on)
                         __attribute__((always_inline)) {
                           handed_on.Start(counter + chunk.first_word, chunk.size);
                         };
  const auto accumulate_gradient = [&](const Chunk& chunk,
                                       HandedOn& handed_on) __attribute__((always_inline)) {
    prefetch(grad, chunk);
    if constexpr (kGradAccum) prefetch(grad_accum, chunk);
    accum.LoadChunk(chunk);
    const Scalars<Compute> here = accum.ScalarsOf(scalars);
    ForEach(chunk, handed_on, [&](int64_t i, Value& each) __attribute__((always_inline)) {
      auto& [value, rounding] = each;
      if constexpr (!kHasRandomHalves<Storage>) rounding = RoundingAt<Storage>(counter, i);
      Compute g = Load(grad[i]);
      if constexpr (kGradAccum) {
        g = AddGradient<Compute>(options, g, Load(grad_accum[i]));
        Store(Compute{0}, rounding, &grad_accum[i]);
      } else if constexpr (kOptions) {
        g = options.grad_scale * g;
      }
      if constexpr (kOptions) g = ClipGradient<Compute>(options, g);
      Compute a = accum.Get(i);
      value = AccumulateGradient<Compute>(here, g, a);
      accum.Set(i, a, rounding);
    });
    accum.StoreChunk(chunk, handed_on);
  };
  const auto accumulate_update = [&](const Chunk& chunk,
                                     HandedOn& handed_on) __attribute__((always_inline)) {
    accum_update.LoadChunk(chunk);
    ForEach(chunk, handed_on, [&](int64_t i, Value& each) __attribute__((always_inline)) {
      auto& [value, rounding] = each;
      Compute u = accum_update.Get(i);
      value = AccumulateUpdate<Compute>(scalars, value, u);
      accum_update.Set(i, u, rounding);
    });
    accum_update.StoreChunk(chunk, handed_on);
  };
  const auto move_variable = [&](const Chunk& chunk,
                                 HandedOn& handed_on) __attribute__((always_inline)) {
    prefetch(var, chunk);
    ForEach(chunk, handed_on, [&](int64_t i, Value& each) __attribute__((always_inline)) {
      auto& [value, rounding] = each;
      Compute x = Load(var[i]);
      if constexpr (kOptions) x = decays ? DecayVariable<Compute>(options, x) : x;
      x = MoveVariable<Compute>(scalars, value, x);
      Store(x, Other(rounding), &var[i]);
      if constexpr (kAverage) value = x;
    });
  };
  const ChunksOf<Storage> chunks(update, begin, end);
  if constexpr (kAverage) {
    const auto average_variable = [&](const Chunk& chunk,
                                      HandedOn& handed_on) __attribute__((always_inline)) {
      prefetch(average, chunk);
      ForEach(chunk, handed_on, [&](int64_t i, Value& each) __attribute__((always_inline)) {
        auto& [value, rounding] = each;
        Store(Average<Compute>(options, value, Load(average[i])), Other(rounding), &average[i]);
      });
    };
    RunStages<HandedOn>(chunks, start, average_variable, move_variable, accumulate_update,
                        accumulate_gradient);
  } else {
    RunStages<HandedOn>(chunks, start, move_variable, accumulate_update, accumulate_gradient);
  }
}

// A step that does not update.
template <typename Storage, typename Compute, bool kAverage>
TF_ADADELTA_INLINE void Accumulate(const TensorUpdate& update, int64_t begin, int64_t end,
                                   const OptionScalars<Compute>& options,
                                   [[maybe_unused]] uint32_t counter) {
  // To g++ 9 what only a discarded branch names is not used.
  [[maybe_unused]] const Storage* __restrict__ const var = static_cast<const Storage*>(update.var);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  [[maybe_unused]] Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  Storage* __restrict__ const grad_accum = static_cast<Storage*>(update.grad_accum);
  const ChunksOf<Storage> chunks(update, begin, end);
  for (int64_t c = 0; c < chunks.count(); ++c) {
    const Chunk chunk = chunks[c];
    for (int64_t i = chunk.first; i < chunk.first + chunk.size; ++i) {
      RoundingOf<Storage> rounding = {};
      if constexpr (!kHasRandomHalves<Storage>) rounding = RoundingAt<Storage>(counter, i);
      Store(AddGradient<Compute>(options, Load(grad[i]), Load(grad_accum[i])), rounding,
            &grad_accum[i]);
      if constexpr (kAverage) {
        Store(Average<Compute>(options, Load(var[i]), Load(average[i])), Other(rounding),
              &average[i]);
      }
    }
  }
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void Dispatch(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Hyperparameters& h, const Options* options,
                                 double clip_factor, bool from_memory, uint32_t counter = 0) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  if (options == nullptr) {
    return Adadelta<Storage, Compute, false, false, false>(update, begin, end, scalars, {}, false,
                                                           counter, from_memory);
  }
  const OptionScalars<Compute> o =
      MakeOptionScalars<Compute>(options->grad_scale, clip_factor, options->clipvalue,
                                 options->weight_decay, h.learning_rate, options->ema_momentum);
  // Infinity times a loss of zero is not a number.
  using Scalar = std::conditional_t<std::is_same_v<Compute, double>, double, float>;
  const bool decays = static_cast<Scalar>(options->weight_decay * h.learning_rate) != 0;
  const bool average = update.average != nullptr;
  const auto adadelta = [&](auto has_average, auto has_grad_accum) __attribute__((always_inline)) {
    Adadelta<Storage, Compute, true, has_average, has_grad_accum>(update, begin, end, scalars, o,
                                                                  decays, counter, from_memory);
  };
  using std::false_type, std::true_type;
  if (update.grad_accum == nullptr) {
    return average ? adadelta(true_type{}, false_type{}) : adadelta(false_type{}, false_type{});
  }
  if (options->update) {
    return average ? adadelta(true_type{}, true_type{}) : adadelta(false_type{}, true_type{});
  }
  return average ? Accumulate<Storage, Compute, true>(update, begin, end, o, counter)
                 : Accumulate<Storage, Compute, false>(update, begin, end, o, counter);
}

// What does not fill a pack is computed in one of its own.
template <typename Element>
TF_ADADELTA_INLINE void DispatchPacks(const TensorUpdate& update, int64_t begin, int64_t end,
                                      const Hyperparameters& h, const Options* options,
                                      double clip_factor) {
  using Pack = PackOf<Element>;
  constexpr int64_t kElements = kPackElements<Element>;
  constexpr int kArrays = 6;
  // The gradient, which is only read, comes last.
  const void* const arrays[kArrays] = {update.var,     update.accum,      update.accum_update,
                                       update.average, update.grad_accum, update.grad};
  const int64_t rest = (end - begin) % kElements;
  Element last[kArrays][kElements] = {};
  const auto for_each_of_rest = [&](int num_arrays,
                                    const auto& use) __attribute__((always_inline)) {
    for (int array = 0; array < num_arrays; ++array) {
      if (arrays[array] == nullptr) continue;
      auto* const elements = static_cast<Element*>(const_cast<void*>(arrays[array])) + end - rest;
      for (int64_t i = 0; i < rest; ++i) use(elements[i], last[array][i]);
    }
  };
  for_each_of_rest(kArrays, [](const Element& from, Element& to) { to = from; });
  for (const bool is_last : {false, true}) {
    const auto select = [&](int array) __attribute__((always_inline)) -> void* {
      if (arrays[array] == nullptr) return nullptr;
      if (is_last) return last[array];
      return static_cast<Element*>(const_cast<void*>(arrays[array])) + begin;
    };
    TensorUpdate part{select(0), select(1), select(2), select(5), kElements};
    part.average = select(3);
    part.grad_accum = select(4);
    const int64_t packs = is_last ? rest > 0 : (end - begin) / kElements;
    const int64_t first = (is_last ? end - rest : begin) / kElements;
    const uint32_t counter =
        FirstCounter(update.random_seed, h.step) + static_cast<uint32_t>(first);
    // The loops over packs have so many instructions for a byte that more cost what is gained.
    constexpr bool kPrefetches = false;
    Dispatch<Pack, ComputeOf<Pack>>(part, 0, packs, h, options, clip_factor, kPrefetches, counter);
  }
  for_each_of_rest(kArrays - 1, [](Element& to, const Element& from) { to = from; });
}

// The same loads and stores in the same order.
template <typename Chunks, typename Bits, typename StateBits = Bits>
TF_ADADELTA_INLINE void Copy(const TensorUpdate& update, int64_t begin, int64_t end,
                             bool from_memory) {
  Bits* __restrict__ const var = static_cast<Bits*>(update.var);
  StateBits* __restrict__ const accum = static_cast<StateBits*>(update.accum);
  StateBits* __restrict__ const accum_update = static_cast<StateBits*>(update.accum_update);
  const Bits* __restrict__ const grad = static_cast<const Bits*>(update.grad);
  const auto swap = [](auto& array, Bits& value) __attribute__((always_inline)) {
    const Bits before = array;
    array = static_cast<std::remove_reference_t<decltype(array)>>(value);
    value = before;
  };
  using HandedOn = Values<Bits, kChunkOf<Bits>>;
  const auto stage_of = [&](auto* array, bool first) __attribute__((always_inline)) {
    return [=](const Chunk& chunk, HandedOn& handed_on) __attribute__((always_inline)) {
      if (from_memory) {
        if (first) PrefetchAhead(grad, chunk.first, chunk.size);
        PrefetchAhead(array, chunk.first, chunk.size);
      }
      ForEach(chunk, handed_on, [&](int64_t i, Bits& value) __attribute__((always_inline)) {
        if (first) value = grad[i];
        swap(array[i], value);
      });
    };
  };
  RunStages<HandedOn>(
      Chunks(update, begin, end), [](const Chunk&, HandedOn&) {}, stage_of(var, false),
      stage_of(accum_update, false), stage_of(accum, true));
}

}  // namespace

void TF_ADADELTA_DENSE_LOOP(LoopKind kind, DType dtype, const TensorUpdate& update, int64_t begin,
                            int64_t end, const Hyperparameters& h, const Options* options,
                            double clip_factor, bool from_memory) {
  if (kind == LoopKind::kCopy) {
    switch (dtype) {
      case DType::kHalf:
      case DType::kBFloat16:
      case DType::kStochasticBFloat16:
        return Copy<FlatChunks<kChunkOf<uint16_t>>, uint16_t>(update, begin, end, from_memory);
      case DType::kFloatBFloat16State:
        return Copy<FlatChunks<kChunkOf<uint32_t>>, uint32_t, uint16_t>(update, begin, end,
                                                                        from_memory);
      case DType::kFloatUInt8State:
        return Copy<BlockChunks, uint32_t, uint8_t>(update, begin, end, from_memory);
      case DType::kFloat:
        return Copy<FlatChunks<kChunkOf<uint32_t>>, uint32_t>(update, begin, end, from_memory);
      case DType::kDouble:
        return Copy<FlatChunks<kChunkOf<uint64_t>>, uint64_t>(update, begin, end, from_memory);
    }
  }
  switch (dtype) {
    case DType::kHalf:
      return DispatchPacks<Half>(update, begin, end, h, options, clip_factor);
    case DType::kBFloat16:
      return DispatchPacks<BFloat16>(update, begin, end, h, options, clip_factor);
    case DType::kStochasticBFloat16:
      return DispatchPacks<StochasticBFloat16>(update, begin, end, h, options, clip_factor);
    case DType::kFloatBFloat16State:
      return Dispatch<FloatBFloat16State, float>(update, begin, end, h, options, clip_factor,
                                                 from_memory,
                                                 FirstCounter(update.random_seed, h.step));
    case DType::kFloatUInt8State:
      return Dispatch<FloatUInt8State, float>(update, begin, end, h, options, clip_factor,
                                              from_memory,
                                              FirstCounter(update.random_seed, h.step));
    case DType::kFloat:
      return Dispatch<float, float>(update, begin, end, h, options, clip_factor, from_memory);
    case DType::kDouble:
      return Dispatch<double, double>(update, begin, end, h, options, clip_factor, from_memory);
  }
}

}  // namespace tf_adadelta
