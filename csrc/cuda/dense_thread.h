// What one thread of the kernel does. It runs on the host too, where the tests call it for every
// thread of a launch.
#ifndef TF_ADADELTA_CUDA_DENSE_THREAD_H_
#define TF_ADADELTA_CUDA_DENSE_THREAD_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "adadelta.h"
#include "block_codes.h"
#include "cuda/compute.h"
#include "cuda/dense.h"
#include "cuda/elements.h"
#include "cuda/launch_plan.h"
#include "cuda/warp.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

struct PlainScalars {
  DeviceHyperparameters hyperparameters;
};

struct AllScalars : PlainScalars {
  DeviceOptions options;
};

template <int kStreams>
struct ClippedTensor : LaunchTensor<kStreams> {
  const double* clip_factor;  // In device memory; null: 1.
};

// The launches of the update: without options, or with them and with the buffers that go with some
// of them; to the nearest, or at random, and then of accumulators in blocks or not.
template <bool options, bool average, bool grad_accum, bool random, bool blocks>
struct DenseKind {
  static constexpr bool kOptions = options;
  static constexpr bool kHasAverage = average;
  static constexpr bool kHasGradAccum = grad_accum;
  static constexpr bool kRandom = random;
  static constexpr bool kBlocks = blocks;

  // The streams of a tensor.
  static constexpr int kGrad = 0;
  static constexpr int kAccum = 1;
  static constexpr int kAccumUpdate = 2;
  static constexpr int kVar = 3;
  static constexpr int kAverage = kVar + (average ? 1 : 0);
  static constexpr int kGradAccum = kAverage + (grad_accum ? 1 : 0);
  static constexpr int kStreams = kGradAccum + 1;

  TF_ADADELTA_INLINE static constexpr bool IsState(int stream) {
    return stream == kAccum || stream == kAccumUpdate;
  }

  // Of all six streams, rounded at random, the registers do not hold two. A warp takes a block of
  // two for each of its threads.
  static constexpr int kVectors = average && grad_accum && random && !blocks ? 1 : 2;
  using Scalars = std::conditional_t<options, AllScalars, PlainScalars>;
  using NearestTensor =
      std::conditional_t<options, ClippedTensor<kStreams>, LaunchTensor<kStreams>>;
  using FlatTensor = std::conditional_t<random, RandomTensor<NearestTensor>, NearestTensor>;
  using Tensor = std::conditional_t<blocks, BlockTensor<FlatTensor>, FlatTensor>;
};

// Calls `visit(launch)` for each launch that the update takes.
template <typename Kind, typename Visit>
void ForEachDenseLaunch(const std::vector<TensorUpdate>& updates, int64_t unit_size,
                        const DeviceHyperparameters& hyperparameters, const DeviceOptions* options,
                        const Visit& visit,
                        int64_t max_blocks = std::numeric_limits<int32_t>::max()) {
  typename Kind::Scalars scalars;
  scalars.hyperparameters = hyperparameters;
  if constexpr (Kind::kOptions) scalars.options = *options;
  std::vector<typename Kind::Tensor> tensors(updates.size());
  for (size_t i = 0; i < updates.size(); ++i) {
    const TensorUpdate& update = updates[i];
    auto& tensor = tensors[i];
    tensor.streams[Kind::kGrad] = const_cast<void*>(update.grad);
    tensor.streams[Kind::kAccum] = update.accum;
    tensor.streams[Kind::kAccumUpdate] = update.accum_update;
    tensor.streams[Kind::kVar] = update.var;
    if constexpr (Kind::kHasAverage) tensor.streams[Kind::kAverage] = update.average;
    if constexpr (Kind::kHasGradAccum) tensor.streams[Kind::kGradAccum] = update.grad_accum;
    tensor.count = update.count;
    if constexpr (Kind::kOptions) {
      tensor.clip_factor = options->clip_factors ? options->clip_factors + i : nullptr;
    }
    if constexpr (Kind::kRandom) {
      tensor.seed_pointer =
          hyperparameters.random.seeds ? hyperparameters.random.seeds + i : nullptr;
      tensor.seed = update.random_seed;
      tensor.first_word = 0;
      static_assert(Kind::Tensor::kStates[0] == Kind::kAccum &&
                    Kind::Tensor::kStates[1] == Kind::kAccumUpdate);
    }
    if constexpr (Kind::kBlocks) {
      tensor.count = BlocksOf(update);
      tensor.row_elements = update.row_elements;
      tensor.first_state_block = 0;
    }
  }
  ForEachLaunch<Kind>(std::move(tensors), unit_size, scalars, visit, max_blocks);
}

// Calls `use(kind)` with the kind of launches that updates with these are.
template <typename Storage, typename Use>
auto WithDenseKind(bool options, bool average, bool grad_accum, const Use& use) {
  constexpr bool kRandom = kIsRandom<Storage>;
  constexpr bool kBlocks = kInBlocks<Storage>;
  if (!options) return use(DenseKind<false, false, false, kRandom, kBlocks>());
  if (average && grad_accum) return use(DenseKind<true, true, true, kRandom, kBlocks>());
  if (average) return use(DenseKind<true, true, false, kRandom, kBlocks>());
  if (grad_accum) return use(DenseKind<true, false, true, kRandom, kBlocks>());
  return use(DenseKind<true, false, false, kRandom, kBlocks>());
}

// The update of an element.
template <typename Kind, typename Compute>
struct UpdateStep {
  TF_ADADELTA_INLINE static constexpr bool IsState(int stream) { return Kind::IsState(stream); }
  TF_ADADELTA_INLINE static constexpr bool Reads(int) { return true; }
  TF_ADADELTA_INLINE static constexpr bool Writes(int stream) { return stream != Kind::kGrad; }

  template <typename Storage>
  TF_ADADELTA_INLINE void operator()(Storage (&element)[Kind::kStreams], uint32_t i) const {
    const RoundingOf<Storage> rounding = RoundingAt<Storage>(counter, i);
    Compute g = Load(element[Kind::kGrad]);
    if constexpr (Kind::kHasGradAccum) {
      g = AddGradient<Compute>(options, g, Load(element[Kind::kGradAccum]));
      StoreRounded(Compute{0}, rounding, &element[Kind::kGradAccum]);
    } else if constexpr (Kind::kOptions) {
      g = options.grad_scale * g;
    }
    if constexpr (Kind::kOptions) g = ClipGradient<Compute>(options, g);
    Compute x = Load(element[Kind::kVar]);
    Compute a = Load(element[Kind::kAccum]);
    Compute u = Load(element[Kind::kAccumUpdate]);
    const Compute normalized_grad = AccumulateGradient<Compute>(accum_scalars, g, a);
    if constexpr (Kind::kOptions) {
      x = options.variable_loss != 0 ? DecayVariable<Compute>(options, x) : x;
    }
    x = MoveVariable<Compute>(scalars, AccumulateUpdate<Compute>(scalars, normalized_grad, u), x);
    StoreRounded(x, Other(rounding), &element[Kind::kVar]);
    StoreRounded(a, rounding, &element[Kind::kAccum]);
    StoreRounded(u, rounding, &element[Kind::kAccumUpdate]);
    if constexpr (Kind::kHasAverage) {
      Compute average = Load(element[Kind::kAverage]);
      StoreRounded(Average<Compute>(options, x, average), Other(rounding),
                   &element[Kind::kAverage]);
    }
  }

  Scalars<Compute> scalars;
  Scalars<Compute> accum_scalars;  // With the ε of `accum`.
  OptionScalars<Compute> options;
  uint32_t counter;
};

// The same for a step that does not update.
template <typename Kind, typename Compute>
struct AccumulateStep {
  TF_ADADELTA_INLINE static constexpr bool IsState(int stream) { return Kind::IsState(stream); }
  TF_ADADELTA_INLINE static constexpr bool Reads(int stream) {
    return stream == Kind::kGrad || stream == Kind::kGradAccum ||
           (Kind::kHasAverage && (stream == Kind::kVar || stream == Kind::kAverage));
  }
  TF_ADADELTA_INLINE static constexpr bool Writes(int stream) {
    return stream == Kind::kGradAccum || (Kind::kHasAverage && stream == Kind::kAverage);
  }

  template <typename Storage>
  TF_ADADELTA_INLINE void operator()(Storage (&element)[Kind::kStreams], uint32_t i) const {
    const RoundingOf<Storage> rounding = RoundingAt<Storage>(counter, i);
    const Compute g =
        AddGradient<Compute>(options, Load(element[Kind::kGrad]), Load(element[Kind::kGradAccum]));
    StoreRounded(g, rounding, &element[Kind::kGradAccum]);
    if constexpr (Kind::kHasAverage) {
      const Compute average =
          Average<Compute>(options, Load(element[Kind::kVar]), Load(element[Kind::kAverage]));
      StoreRounded(average, Other(rounding), &element[Kind::kAverage]);
    }
  }

  OptionScalars<Compute> options;
  uint32_t counter;
};

template <typename Kind, typename Compute>
TF_ADADELTA_INLINE OptionScalars<Compute> ReadOptions(const typename Kind::Scalars& scalars,
                                                      const typename Kind::Tensor& tensor) {
  if constexpr (Kind::kOptions) {
    const DeviceOptions& o = scalars.options;
    return MakeOptionScalars<Compute>(
        ReadScalar(o.grad_scale), tensor.clip_factor != nullptr ? *tensor.clip_factor : 1.0,
        ReadScalar(o.clipvalue), ReadScalar(o.weight_decay),
        ReadScalar(scalars.hyperparameters.learning_rate), ReadScalar(o.ema_momentum));
  } else {
    return {};
  }
}

// Thread `thread` of block `block`.
template <typename Storage, typename Kind, int kCapacity>
TF_ADADELTA_INLINE void DenseThread(const Launch<Kind, kCapacity>& launch, int32_t block,
                                    int thread) {
  using Compute = ComputeOf<Storage>;
  const Chunk chunk = FindChunk(launch, block, kUnitSize<Storage>);
  const auto& tensor = launch.tensors[chunk.tensor];
  const auto counter_from = [&](uint32_t first_word) -> uint32_t {
    if constexpr (Kind::kRandom) {
      return ReadCounter<Storage>(launch.scalars.hyperparameters, tensor.seed_pointer,
                                  tensor.seed) +
             tensor.first_word + first_word;
    } else {
      return 0;
    }
  };
  // Of a step that `make_step` returns for a counter.
  const auto for_each_element = [&](const auto& make_step) {
    if constexpr (Kind::kBlocks) {
      const Warp warp(thread);
      const int64_t unit = chunk.begin + thread / kWarpThreads;
      if (unit >= chunk.end || !warp.acts()) return;
      const BlockPlace place = PlaceOfBlock(tensor.first_state_block + unit, tensor.row_elements);
      ForEachElementOfBlock<Storage, Kind>(
          tensor, place, warp, [&] { return make_step(counter_from(place.first_word)); });
    } else {
      ForEachElement<Storage, Kind::kVectors>(tensor, chunk, thread, [&] {
        return make_step(counter_from(static_cast<uint32_t>(chunk.begin / 2)));
      });
    }
  };
  if constexpr (Kind::kHasGradAccum) {
    // Before the loads, of which such a step needs fewer.
    if (ReadScalar(launch.scalars.options.update) == 0) {
      for_each_element([&](uint32_t counter) {
        return AccumulateStep<Kind, Compute>{ReadOptions<Kind, Compute>(launch.scalars, tensor),
                                             counter};
      });
      return;
    }
  }
  for_each_element([&](uint32_t counter) {
    const auto scalars = ReadScalars<Compute>(launch.scalars.hyperparameters);
    return UpdateStep<Kind, Compute>{scalars, scalars,
                                     ReadOptions<Kind, Compute>(launch.scalars, tensor), counter};
  });
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_DENSE_THREAD_H_
