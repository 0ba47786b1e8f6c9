// Cuts a list of tensors into kernel launches. Plain C++, so that it is tested without a GPU.
//
// A thread block works on one chunk of one tensor. Which chunk, it finds in the parameters of the
// kernel, which hold all that a launch needs: nothing is allocated or copied for a step.
#ifndef TF_ADADELTA_CUDA_LAUNCH_PLAN_H_
#define TF_ADADELTA_CUDA_LAUNCH_PLAN_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "adadelta.h"
#include "block_codes.h"
#include "storage.h"

namespace tf_adadelta::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kVectorBytes = 16;

// The arrays that one kernel reads and writes side by side, of `count` units each. A unit is an
// element; of a tensor whose accumulators are in blocks it is the elements of a block.
template <int kStreams>
struct LaunchTensor {
  void* streams[kStreams];
  int64_t count;
};

// A tensor that is rounded at random (random_bits.h).
template <typename Base>
struct RandomTensor : Base {
  const int64_t* seed_pointer;  // To device memory; null where `seed` counts.
  int64_t seed;
  uint32_t first_word;  // Of those of its variable: 0 unless this is not all of it.

  // The streams that are accumulators, and the bytes of their elements.
  static constexpr int kStates[2] = {1, 2};  // clang 12 reads no array without a bound.
  static constexpr int64_t kStateSize = sizeof(StochasticBFloat16);
};

// One whose accumulators are in blocks (block_codes.h).
template <typename Base>
struct BlockTensor : Base {
  int64_t row_elements;
  int64_t first_state_block;  // Of those of its variable: 0 unless this is not all of it.
};

// The bytes of a whole unit of a variable.
template <typename Storage>
inline constexpr int64_t kUnitSize = sizeof(Storage) * (kInBlocks<Storage> ? kStateBlock : 1);

// The parameters of one kernel launch: up to `kCapacity` tensors, none empty. A `Kind` of launches
// has what all tensors share (Scalars), what a launch knows of one (Tensor, a LaunchTensor or
// more), and how many vectors of each stream a thread handles (kVectors).
template <typename Kind, int kCapacity>
struct Launch {
  typename Kind::Scalars scalars;
  typename Kind::Tensor tensors[kCapacity];
  int32_t first_block[kCapacity];  // Of each tensor: ascending from 0.
  int32_t num_tensors;
  int32_t num_blocks;
};

// Small lists fit into 4 KB of parameters, which cost less to launch; a kernel may have 32,764
// bytes.
template <typename Kind>
constexpr int CapacityOf(size_t bytes) {
  bytes -= bytes % alignof(typename Kind::Tensor);
  return static_cast<int>((bytes - sizeof(typename Kind::Scalars) - 2 * sizeof(int32_t)) /
                          (sizeof(typename Kind::Tensor) + sizeof(int32_t)));
}
template <typename Kind>
inline constexpr int kSmallCapacity = CapacityOf<Kind>(4096);
template <typename Kind>
inline constexpr int kLargeCapacity = CapacityOf<Kind>(32764);

// How many bytes of a stream a block handles.
template <typename Kind>
inline constexpr int kChunkBytes = kThreads * Kind::kVectors * kVectorBytes;

// Where a block works: units [begin, end) of tensors[tensor].
struct Chunk {
  int32_t tensor;
  int64_t begin;
  int64_t end;
};

template <typename Kind, int kCapacity>
TF_ADADELTA_INLINE Chunk FindChunk(const Launch<Kind, kCapacity>& launch, int32_t block,
                                   int64_t unit_size) {
  const int64_t chunk_units = kChunkBytes<Kind> / unit_size;
  int32_t tensor = 0;  // The last whose first block is not behind `block`.
  for (int32_t stop = launch.num_tensors; stop - tensor > 1;) {
    const int32_t middle = (tensor + stop) / 2;
    (launch.first_block[middle] <= block ? tensor : stop) = middle;
  }
  const int64_t begin = (block - launch.first_block[tensor]) * chunk_units;
  const int64_t rest = launch.tensors[tensor].count - begin;
  return {tensor, begin, begin + (rest < chunk_units ? rest : chunk_units)};
}

// How many blocks a tensor takes.
template <typename Kind>
int64_t CountBlocks(int64_t count, int64_t unit_size) {
  const int64_t chunk_units = kChunkBytes<Kind> / unit_size;
  return count / chunk_units + (count % chunk_units != 0);
}

namespace internal {

// Leaves of a tensor what remains once its first `units` are taken.
template <int kStreams>
void Skip(int64_t units, int64_t unit_size, LaunchTensor<kStreams>* tensor) {
  for (void*& stream : tensor->streams) {
    stream = reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(stream) +
                                     static_cast<uintptr_t>(units * unit_size));
  }
  tensor->count -= units;
}

template <typename Base>
void Skip(int64_t elements, int64_t element_size, RandomTensor<Base>* tensor) {
  Skip(elements, element_size, static_cast<Base*>(tensor));
  // The accumulators may be smaller.
  for (const int stream : tensor->kStates) {
    void*& state = tensor->streams[stream];
    state = reinterpret_cast<void*>(
        reinterpret_cast<uintptr_t>(state) -
        static_cast<uintptr_t>(elements * (element_size - tensor->kStateSize)));
  }
  tensor->first_word += static_cast<uint32_t>(elements / 2);
}

// Rows need not be whole blocks, so these are counted instead.
template <typename Base>
void Skip(int64_t blocks, int64_t, BlockTensor<Base>* tensor) {
  tensor->first_state_block += blocks;
  tensor->count -= blocks;
}

// Fills one launch from the tensors [next, end), and advances `next` to what did not fit.
template <typename Kind, int kCapacity, typename Iterator>
Launch<Kind, kCapacity> TakeLaunch(int64_t unit_size, int64_t max_blocks,
                                   const typename Kind::Scalars& scalars, Iterator& next,
                                   const Iterator& end) {
  Launch<Kind, kCapacity> launch;
  launch.scalars = scalars;
  launch.num_tensors = 0;
  int64_t blocks = 0;
  while (next != end && launch.num_tensors < kCapacity && blocks < max_blocks) {
    const int64_t wanted = CountBlocks<Kind>(next->count, unit_size);
    const int64_t taken = std::min(wanted, max_blocks - blocks);
    auto& tensor = launch.tensors[launch.num_tensors];
    tensor = *next;
    launch.first_block[launch.num_tensors++] = static_cast<int32_t>(blocks);
    blocks += taken;
    if (taken == wanted) {
      ++next;
    } else {
      tensor.count = taken * (kChunkBytes<Kind> / unit_size);
      Skip(tensor.count, unit_size, &*next);
    }
  }
  launch.num_blocks = static_cast<int32_t>(blocks);
  return launch;
}

}  // namespace internal

// Calls `visit(launch)` for each launch that the tensors take, with a Launch of either capacity.
template <typename Kind, typename Visit>
void ForEachLaunch(std::vector<typename Kind::Tensor> tensors, int64_t unit_size,
                   const typename Kind::Scalars& scalars, const Visit& visit,
                   int64_t max_blocks = std::numeric_limits<int32_t>::max()) {
  constexpr int kSmall = kSmallCapacity<Kind>;
  constexpr int kLarge = kLargeCapacity<Kind>;
  static_assert(sizeof(Launch<Kind, kSmall>) <= 4096 && sizeof(Launch<Kind, kLarge>) <= 32764);
  static_assert(std::is_trivially_copyable_v<Launch<Kind, kLarge>>);
  const auto end = std::remove_if(tensors.begin(), tensors.end(),
                                  [](const auto& tensor) { return tensor.count == 0; });
  for (auto next = tensors.begin(); next != end;) {
    if (end - next <= kSmall) {
      visit(internal::TakeLaunch<Kind, kSmall>(unit_size, max_blocks, scalars, next, end));
    } else {
      visit(internal::TakeLaunch<Kind, kLarge>(unit_size, max_blocks, scalars, next, end));
    }
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_LAUNCH_PLAN_H_
