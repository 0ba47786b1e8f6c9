// How a thread goes through its elements of a chunk: by vectors where it can, and with all loads
// before the first computation.
#ifndef TF_ADADELTA_CUDA_ELEMENTS_H_
#define TF_ADADELTA_CUDA_ELEMENTS_H_

#include <cstdint>
#include <stdexcept>

#include "adadelta.h"
#include "cuda/compute.h"
#include "cuda/launch_plan.h"

namespace tf_adadelta::cuda {

// What one instruction loads or stores.
template <typename Storage>
struct alignas(kVectorBytes) Vector {
  static constexpr int kSize = kVectorBytes / sizeof(Storage);
  Storage elements[kSize];
};

// Vector `i` from an address, which a GPU accepts only at multiples of its size. The host, where
// nobody but the tests comes by, is made to refuse others too.
template <typename Storage>
TF_ADADELTA_INLINE Vector<Storage>& VectorAt(Storage* start, int i) {
#if !defined(__CUDA_ARCH__)
  if (reinterpret_cast<uintptr_t>(start) % kVectorBytes != 0) {
    throw std::logic_error("a vector is accessed at an address that is not aligned");
  }
#endif
  return reinterpret_cast<Vector<Storage>*>(start)[i];
}

// Takes every kThreads-th vector of a chunk, from the vector `thread` on, or every kThreads-th
// element where a stream does not start at a vector's address. Calls `step(element, i)` for each
// element, with an array of its values in all streams and its place in the chunk. Of these,
// Step::Reads(stream) were loaded and Step::Writes(stream) are stored; a stream that is neither is
// not touched.
//
// The step is what `make_step` returns once the loads are on their way; so it may load, too.
// Returns it.
template <typename Storage, int kVectors, int kStreams, typename MakeStep>
TF_ADADELTA_INLINE auto ForEachElement(const LaunchTensor<kStreams>& tensor, const Chunk& chunk,
                                       int thread, const MakeStep& make_step) {
  using Step = decltype(make_step());
  constexpr int kSize = Vector<Storage>::kSize;
  Storage* streams[kStreams];
  uintptr_t addresses = 0;
  TF_ADADELTA_UNROLL
  for (int s = 0; s < kStreams; ++s) {
    streams[s] = static_cast<Storage*>(tensor.streams[s]) + chunk.begin;
    addresses |= reinterpret_cast<uintptr_t>(streams[s]);
  }
  const int size = static_cast<int>(chunk.end - chunk.begin);
  const int vectors = addresses % kVectorBytes == 0 ? size / kSize : 0;

  // All loads first: so many bytes must be on their way at once for the memory to be busy.
#if defined(__CUDA_ARCH__)
  Vector<Storage> loaded[kVectors][kStreams];
#else  // g++ 12 takes what is not loaded for used.
  Vector<Storage> loaded[kVectors][kStreams] = {};
#endif
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int vector = i * kThreads + thread;
    if (vector < vectors) {
      TF_ADADELTA_UNROLL
      for (int s = 0; s < kStreams; ++s) {
        if (Step::Reads(s)) loaded[i][s] = VectorAt(streams[s], vector);
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
        Storage element[kStreams];
        TF_ADADELTA_UNROLL
        for (int s = 0; s < kStreams; ++s) {
          if (Step::Reads(s)) element[s] = loaded[i][s].elements[j];
        }
        step(element, static_cast<uint32_t>(vector * kSize + j));
        TF_ADADELTA_UNROLL
        for (int s = 0; s < kStreams; ++s) {
          if (Step::Writes(s)) loaded[i][s].elements[j] = element[s];
        }
      }
      TF_ADADELTA_UNROLL
      for (int s = 0; s < kStreams; ++s) {
        if (Step::Writes(s)) VectorAt(streams[s], vector) = loaded[i][s];
      }
    }
  }
  for (int i = vectors * kSize + thread; i < size; i += kThreads) {
    Storage element[kStreams];
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (Step::Reads(s)) element[s] = streams[s][i];
    }
    step(element, static_cast<uint32_t>(i));
    TF_ADADELTA_UNROLL
    for (int s = 0; s < kStreams; ++s) {
      if (Step::Writes(s)) streams[s][i] = element[s];
    }
  }
  return step;
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_ELEMENTS_H_
