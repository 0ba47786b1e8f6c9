// Compiled once for each instruction set, with TF_ADADELTA_DENSE_LOOP naming the function.
//
// Everything here but that function is inlined or internal: an inline library function compiled for
// AVX-512 could otherwise be the copy that the linker keeps for the whole library.
#include "cpu/dense_loop.h"

#include <type_traits>

#include "adadelta.h"
#include "cpu/packs.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// Of the values that are handed on.
constexpr int64_t kChunkBytes = 1024;
template <typename Value>
inline constexpr int64_t kChunkOf = kChunkBytes / sizeof(Value);

// What the stages of an update hand on: a value, and how the element is rounded by all of them.
template <typename Storage>
struct Rounded {
  ComputeOf<Storage> value;
  RoundingOf<Storage> rounding;
};

template <typename Storage, int64_t kSize>
class Values<Rounded<Storage>, kSize> {
 public:
  // Begins with `size` elements of which the first has the random bits of `counter`.
  TF_ADADELTA_INLINE void Start(uint32_t, int64_t) {}
  TF_ADADELTA_INLINE Rounded<Storage> Get(int64_t i) const {
    return {values_.Get(i), roundings_.Get(i)};
  }
  TF_ADADELTA_INLINE void Set(int64_t i, const Rounded<Storage>& value) {
    values_.Set(i, value.value);
    roundings_.Set(i, value.rounding);
  }

 private:
  Values<ComputeOf<Storage>, kSize> values_;
  Values<RoundingOf<Storage>, kSize> roundings_;
};

template <int64_t kSize>
class Values<Rounded<FloatBFloat16State>, kSize> {
 public:
  TF_ADADELTA_INLINE void Start(uint32_t counter, int64_t size) { roundings_.Fill(counter, size); }
  TF_ADADELTA_INLINE Rounded<FloatBFloat16State> Get(int64_t i) const {
    return {values_.Get(i), roundings_.Get(i)};
  }
  TF_ADADELTA_INLINE void Set(int64_t i, const Rounded<FloatBFloat16State>& value) {
    values_.Set(i, value.value);
  }

 private:
  Values<float, kSize> values_;
  RandomHalves<kSize> roundings_;
};

// Runs the stages of a step over the elements [begin, end), the last stage named first. Each is
// called with the index of an element and a value of it that is handed on from stage to stage.
//
// Arrays that are visited at the same index fight for the same bank of the memory, and for the same
// lines of the first cache, where their addresses are alike, as those of large allocations are. So
// each stage is a chunk behind the one before, and what it is handed waits in that cache
// (docs/design.md).
//
// `start` is called with the values of a chunk, its first element and its size before any stage is.
template <typename Value, int64_t kChunk, typename Start, typename... Stages>
TF_ADADELTA_INLINE void RunStages(int64_t begin, int64_t end, const Start& start,
                                  const Stages&... stages) {
  constexpr int kNumStages = sizeof...(Stages);
  Values<Value, kChunk> values[kNumStages];
  const auto run = [&](int64_t chunk, const auto& stage) __attribute__((always_inline)) {
    const int64_t first = begin + chunk * kChunk;
    if (chunk < 0 || first >= end) return;
    const int64_t size = end - first < kChunk ? end - first : kChunk;
    Values<Value, kChunk>& handed_on = values[chunk % kNumStages];
    // What restrict says is lost in the calls of a stage.
#ifdef __clang__
#pragma clang loop vectorize(assume_safety)
#else
#pragma GCC ivdep
#endif
    for (int64_t i = 0; i < size; ++i) {
      Value value = handed_on.Get(i);
      stage(first + i, value);
      handed_on.Set(i, value);
    }
  };
  constexpr int64_t kBehind = kNumStages - 1;
  for (int64_t chunk = -kBehind; begin + chunk * kChunk < end; ++chunk) {
    const int64_t next = chunk + kBehind;
    const int64_t left = end - (begin + next * kChunk);
    if (left > 0) {
      start(values[next % kNumStages], begin + next * kChunk, left < kChunk ? left : kChunk);
    }
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
                                 [[maybe_unused]] bool decays, uint32_t counter) {
  Storage* __restrict__ const var = static_cast<Storage*>(update.var);
  using State = StateOf<Storage>;
  State* __restrict__ const accum = static_cast<State*>(update.accum);
  State* __restrict__ const accum_update = static_cast<State*>(update.accum_update);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  [[maybe_unused]] Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  [[maybe_unused]] Storage* __restrict__ const grad_accum =
      static_cast<Storage*>(update.grad_accum);

  using Value = Rounded<Storage>;
  const auto start = [counter](auto& values, int64_t first, int64_t size)
                         __attribute__((always_inline)) {
                           values.Start(counter + static_cast<uint32_t>(first / 2), size);
                         };
  const auto accumulate_gradient = [&](int64_t i, Value& handed_on) __attribute__((always_inline)) {
    auto& [value, rounding] = handed_on;
    if constexpr (!std::is_same_v<Storage, FloatBFloat16State>) {
      rounding = RoundingAt<Storage>(counter, i);
    }
    Compute g = Load(grad[i]);
    if constexpr (kGradAccum) {
      g = AddGradient<Compute>(options, g, Load(grad_accum[i]));
      Store(Compute{0}, rounding, &grad_accum[i]);
    } else if constexpr (kOptions) {
      g = options.grad_scale * g;
    }
    if constexpr (kOptions) g = ClipGradient<Compute>(options, g);
    Compute a = Load(accum[i]);
    value = AccumulateGradient<Compute>(scalars, g, a);
    Store(a, rounding, &accum[i]);
  };
  const auto accumulate_update = [&](int64_t i, Value& handed_on) __attribute__((always_inline)) {
    auto& [value, rounding] = handed_on;
    Compute u = Load(accum_update[i]);
    value = AccumulateUpdate<Compute>(scalars, value, u);
    Store(u, rounding, &accum_update[i]);
  };
  const auto move_variable = [&](int64_t i, Value& handed_on) __attribute__((always_inline)) {
    auto& [value, rounding] = handed_on;
    Compute x = Load(var[i]);
    if constexpr (kOptions) x = decays ? DecayVariable<Compute>(options, x) : x;
    x = MoveVariable<Compute>(scalars, value, x);
    Store(x, Other(rounding), &var[i]);
    if constexpr (kAverage) value = x;
  };
  if constexpr (kAverage) {
    const auto average_variable = [&](int64_t i, Value& handed_on) __attribute__((always_inline)) {
      auto& [value, rounding] = handed_on;
      Store(Average<Compute>(options, value, Load(average[i])), Other(rounding), &average[i]);
    };
    RunStages<Value, kChunkOf<Compute>>(begin, end, start, average_variable, move_variable,
                                        accumulate_update, accumulate_gradient);
  } else {
    RunStages<Value, kChunkOf<Compute>>(begin, end, start, move_variable, accumulate_update,
                                        accumulate_gradient);
  }
}

// A step that does not update.
template <typename Storage, typename Compute, bool kAverage>
TF_ADADELTA_INLINE void Accumulate(const TensorUpdate& update, int64_t begin, int64_t end,
                                   const OptionScalars<Compute>& options, uint32_t counter) {
  // To g++ 9 what only a discarded branch names is not used.
  [[maybe_unused]] const Storage* __restrict__ const var = static_cast<const Storage*>(update.var);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  [[maybe_unused]] Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  Storage* __restrict__ const grad_accum = static_cast<Storage*>(update.grad_accum);
  for (int64_t i = begin; i < end; ++i) {
    RoundingOf<Storage> rounding = {};
    if constexpr (std::is_same_v<StateOf<Storage>, Storage>) {
      rounding = RoundingAt<Storage>(counter, i);
    }
    Store(AddGradient<Compute>(options, Load(grad[i]), Load(grad_accum[i])), rounding,
          &grad_accum[i]);
    if constexpr (kAverage) {
      Store(Average<Compute>(options, Load(var[i]), Load(average[i])), Other(rounding),
            &average[i]);
    }
  }
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void Dispatch(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Hyperparameters& h, const Options* options,
                                 double clip_factor, uint32_t counter = 0) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  if (options == nullptr) {
    return Adadelta<Storage, Compute, false, false, false>(update, begin, end, scalars, {}, false,
                                                           counter);
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
                                                                  decays, counter);
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
    Dispatch<Pack, ComputeOf<Pack>>(part, 0, packs, h, options, clip_factor, counter);
  }
  for_each_of_rest(kArrays - 1, [](Element& to, const Element& from) { to = from; });
}

// The same loads and stores in the same order.
template <typename Bits, typename StateBits = Bits>
TF_ADADELTA_INLINE void Copy(const TensorUpdate& update, int64_t begin, int64_t end) {
  Bits* __restrict__ const var = static_cast<Bits*>(update.var);
  StateBits* __restrict__ const accum = static_cast<StateBits*>(update.accum);
  StateBits* __restrict__ const accum_update = static_cast<StateBits*>(update.accum_update);
  const Bits* __restrict__ const grad = static_cast<const Bits*>(update.grad);
  const auto swap = [](auto& array, Bits& value) __attribute__((always_inline)) {
    const Bits before = array;
    array = static_cast<std::remove_reference_t<decltype(array)>>(value);
    value = before;
  };
  RunStages<Bits, kChunkOf<Bits>>(
      begin, end, [](const auto&, int64_t, int64_t) {},
      [&](int64_t i, Bits& value) __attribute__((always_inline)) { swap(var[i], value); },
      [&](int64_t i, Bits& value) __attribute__((always_inline)) { swap(accum_update[i], value); },
      [&](int64_t i, Bits& value) __attribute__((always_inline)) {
        value = grad[i];
        swap(accum[i], value);
      });
}

}  // namespace

void TF_ADADELTA_DENSE_LOOP(LoopKind kind, DType dtype, const TensorUpdate& update, int64_t begin,
                            int64_t end, const Hyperparameters& h, const Options* options,
                            double clip_factor) {
  if (kind == LoopKind::kCopy) {
    switch (dtype) {
      case DType::kHalf:
      case DType::kBFloat16:
      case DType::kStochasticBFloat16:
        return Copy<uint16_t>(update, begin, end);
      case DType::kFloatBFloat16State:
        return Copy<uint32_t, uint16_t>(update, begin, end);
      case DType::kFloat:
        return Copy<uint32_t>(update, begin, end);
      case DType::kDouble:
        return Copy<uint64_t>(update, begin, end);
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
                                                 FirstCounter(update.random_seed, h.step));
    case DType::kFloat:
      return Dispatch<float, float>(update, begin, end, h, options, clip_factor);
    case DType::kDouble:
      return Dispatch<double, double>(update, begin, end, h, options, clip_factor);
  }
}

}  // namespace tf_adadelta
