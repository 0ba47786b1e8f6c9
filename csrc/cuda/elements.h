// How a thread goes through its elements of a chunk: by vectors where it can, or with its warp by
// blocks, and with all loads before the first computation.
#ifndef TF_ADADELTA_CUDA_ELEMENTS_H_
#define TF_ADADELTA_CUDA_ELEMENTS_H_

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "adadelta.h"
#include "block_codes.h"
#include "cuda/compute.h"
#include "cuda/launch_plan.h"
#include "cuda/state_block.h"
#include "cuda/warp.h"
#include "storage.h"

namespace tf_adadelta::cuda {

// What one instruction loads or stores.
template <typename Element, int size>
struct alignas(sizeof(Element) * size) VectorOf {
  static constexpr int kSize = size;
  Element elements[kSize];
};
template <typename Storage>
using Vector = VectorOf<Storage, kVectorBytes / static_cast<int>(sizeof(Storage))>;
// Of an accumulator, for as many elements.
template <typename Storage>
using StateVector = VectorOf<StateOf<Storage>, Vector<Storage>::kSize>;

// Vector `i` from an address, which a GPU accepts only at multiples of its size. The host, where
// nobody but the tests comes by, is made to refuse others too.
template <typename Vector, typename Element>
TF_ADADELTA_INLINE Vector& VectorAt(Element* start, int i) {
#if !defined(__CUDA_ARCH__)
  if (reinterpret_cast<uintptr_t>(start) % sizeof(Vector) != 0) {
    throw std::logic_error("a vector is accessed at an address that is not aligned");
  }
#endif
  return reinterpret_cast<Vector*>(start)[i];
}

// Whether a stream holds accumulators of a type of their own.
template <typename Storage, typename Step>
TF_ADADELTA_INLINE constexpr bool IsState(int stream) {
  return !std::is_same_v<StateOf<Storage>, Storage> && Step::IsState(stream);
}

// An element of such a stream, as one of the other streams and back.
template <typename Storage>
TF_ADADELTA_INLINE Storage FromState(const StateOf<Storage>& state) {
  if constexpr (std::is_same_v<StateOf<Storage>, Storage>) {
    return state;
  } else {
    return {Load(state)};
  }
}
template <typename Storage, typename Step>
TF_ADADELTA_INLINE void ToState(const Storage& element, [[maybe_unused]] const Step& step,
                                [[maybe_unused]] uint32_t i, StateOf<Storage>* state) {
  if constexpr (std::is_same_v<StateOf<Storage>, Storage>) {
    *state = element;
  } else {
    Store(Load(element), RoundingAt<Storage>(step.counter, i), state);
  }
}

// Takes every kThreads-th vector of a chunk, from the vector `thread` on, or every kThreads-th
// element where a stream does not start at a vector's address. Calls `step(element, i)` for each
// element, with an array of its values in all streams and its place in the chunk. Of these,
// Step::Reads(stream) were loaded and Step::Writes(stream) are stored; a stream that is neither is
// not touched. Step::IsState(stream) are accumulators.
//
// The step is what `make_step` returns once the loads are on their way; so it may load, too.
// Returns it.
template <typename Storage, int kVectors, int kStreams, typename MakeStep>
TF_ADADELTA_INLINE auto ForEachElement(const LaunchTensor<kStreams>& tensor, const Chunk& chunk,
                                       int thread, const MakeStep& make_step) {
  using Step = decltype(make_step());
  using State = StateOf<Storage>;
  constexpr int kSize = Vector<Storage>::kSize;
  constexpr auto kIsState = IsState<Storage, Step>;
  Storage* streams[kStreams];
  State* states[kStreams];
  uintptr_t addresses = 0;
  TF_ADADELTA_UNROLL
  for (int s = 0; s < kStreams; ++s) {
    streams[s] = static_cast<Storage*>(tensor.streams[s]) + chunk.begin;
    states[s] = static_cast<State*>(tensor.streams[s]) + chunk.begin;
    // Vectors of accumulators are smaller.
    addresses |= kIsState(s) ? reinterpret_cast<uintptr_t>(states[s]) *
                                   (sizeof(Vector<Storage>) / sizeof(StateVector<Storage>))
                             : reinterpret_cast<uintptr_t>(streams[s]);
  }
  const int size = static_cast<int>(chunk.end - chunk.begin);
  const int vectors = addresses % kVectorBytes == 0 ? size / kSize : 0;

  // All loads first: so many bytes must be on their way at once for the memory to be busy.
#if defined(__CUDA_ARCH__)
  Vector<Storage> loaded[kVectors][kStreams];
  StateVector<Storage> loaded_states[kVectors][kStreams];
#else  // g++ 12 takes what is not loaded for used.
  Vector<Storage> loaded[kVectors][kStreams] = {};
  StateVector<Storage> loaded_states[kVectors][kStreams] = {};
#endif
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int vector = i * kThreads + thread;
    if (vector < vectors) {
      TF_ADADELTA_UNROLL
      for (int s = 0; s < kStreams; ++s) {
        if (!Step::Reads(s)) continue;
        if (kIsState(s)) {
          loaded_states[i][s] = VectorAt<StateVector<Storage>>(states[s], vector);
        } else {
          loaded[i][s] = VectorAt<Vector<Storage>>(streams[s], vector);
        }
      }
    }
  }
  Step step = make_step();
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int vector = i * kThreads + thread;
    if (vector < vectors) {
      TF_ADADELTA_UNROLL
      for (int j = 0; j < kSize; ++j) {
        const auto place = static_cast<uint32_t>(vector * kSize + j);
        Storage element[kStreams];
        TF_ADADELTA_UNROLL
        for (int s = 0; s < kStreams; ++s) {
          if (!Step::Reads(s)) continue;
          element[s] = kIsState(s) ? FromState<Storage>(loaded_states[i][s].elements[j])
                                   : loaded[i][s].elements[j];
        }
        step(element, place);
        TF_ADADELTA_UNROLL
        for (int s = 0; s < kStreams; ++s) {
          if (!Step::Writes(s)) continue;
          if (kIsState(s)) {
            ToState(element[s], step, place, &loaded_states[i][s].elements[j]);
          } else {
            loaded[i][s].elements[j] = element[s];
          }
        }
      }
      TF_ADADELTA_UNROLL
      for (int s = 0; s < kStreams; ++s) {
        if (!Step::Writes(s)) continue;
        if (kIsState(s)) {
          VectorAt<StateVector<Storage>>(states[s], vector) = loaded_states[i][s];
        } else {
          VectorAt<Vector<Storage>>(streams[s], vector) = loaded[i][s];
        }
      }
    }
  }
  for (int i = vectors * kSize + thread; i < size; i += kThreads) {
    const auto place = static_cast<uint32_t>(i);
    Storage element[kStreams];
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (!Step::Reads(s)) continue;
      element[s] = kIsState(s) ? FromState<Storage>(states[s][i]) : streams[s][i];
    }
    step(element, place);
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (!Step::Writes(s)) continue;
      if (kIsState(s)) {
        ToState(element[s], step, place, &states[s][i]);
      } else {
        streams[s][i] = element[s];
      }
    }
  }
  return step;
}

// The same by a warp, for a block of a variable whose accumulators are in blocks. They are no
// elements until all of their block are: they are read and stored with those of the other streams.
template <typename Storage, typename Kind, typename MakeStep>
TF_ADADELTA_INLINE void ForEachElementOfBlock(const typename Kind::Tensor& tensor,
                                              const BlockPlace& place, const Warp& warp,
                                              const MakeStep& make_step) {
  using Step = decltype(make_step());
  constexpr int kStreams = Kind::kStreams;
  constexpr bool kReadsStates = Step::Reads(Kind::kAccum);
  struct Lane {
    Storage elements[kLaneElements][kStreams];
  };
  PerLane<Lane> lanes;
  const int size = static_cast<int>(place.size);
  Storage* streams[kStreams];
  TF_ADADELTA_UNROLL
  for (int s = 0; s < kStreams; ++s) {
    streams[s] = static_cast<Storage*>(tensor.streams[s]) + place.first;
  }
  ForEachOfBlock(warp, size, [&](int lane, int k, int i) {
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (Step::Reads(s) && !Step::IsState(s)) lanes[lane].elements[k][s] = streams[s][i];
    }
  });
  uint8_t* const accum_at = static_cast<uint8_t*>(tensor.streams[Kind::kAccum]) + place.stored;
  uint8_t* const accum_update_at =
      static_cast<uint8_t*>(tensor.streams[Kind::kAccumUpdate]) + place.stored;
  StateBlock accum, accum_update;
  if constexpr (kReadsStates) {
    accum.Load(warp, accum_at, size);
    accum_update.Load(warp, accum_update_at, size);
  }
  Step step = make_step();
  if constexpr (kReadsStates) {
    accum.ShareScale(warp);
    accum_update.ShareScale(warp);
    step.accum_scalars.epsilon += accum.Resolution(warp);
  }
  ForEachOfBlock(warp, size, [&](int lane, int k, int i) {
    auto& element = lanes[lane].elements[k];
    if constexpr (kReadsStates) {
      element[Kind::kAccum] = {accum.Get(lane, k)};
      element[Kind::kAccumUpdate] = {accum_update.Get(lane, k)};
    }
    step(element, static_cast<uint32_t>(i));
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (Step::Writes(s) && !Step::IsState(s)) streams[s][i] = element[s];
    }
    if constexpr (kReadsStates) {
      accum.Set(lane, k, Load(element[Kind::kAccum]));
      accum_update.Set(lane, k, Load(element[Kind::kAccumUpdate]));
    }
  });
  if constexpr (kReadsStates) {
    accum.Rescale(warp, size);
    accum_update.Rescale(warp, size);
    ForEachOfBlock(warp, size, [&](int lane, int k, int i) {
      const AtRandom rounding = RoundingAt<Storage>(step.counter, static_cast<uint32_t>(i));
      accum.Store(lane, k, i, rounding, accum_at);
      accum_update.Store(lane, k, i, rounding, accum_update_at);
    });
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_ELEMENTS_H_
