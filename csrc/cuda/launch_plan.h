// Cuts a list of tensors into kernel launches. Plain C++, so that it is tested without a GPU.
//
// A thread block works on one chunk of one tensor. Which chunk, it finds in the parameters of the
// kernel, which hold all that a launch needs: nothing is allocated or copied for a step.
#ifndef TF_ADADELTA_CUDA_LAUNCH_PLAN_H_
#define TF_ADADELTA_CUDA_LAUNCH_PLAN_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "adadelta.h"
#include "cuda/dense.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

inline constexpr int kThreads = 256;
inline constexpr int kVectorBytes = 16;
// How many vectors of each stream a thread handles.
inline constexpr int kVectors = 2;
inline constexpr int kChunkBytes = kThreads * kVectors * kVectorBytes;

// What a launch knows of a tensor.
struct LaunchTensor {
  void* var;
  void* accum;
  void* accum_update;
  const void* grad;
  int64_t count;
};

// The parameters of one kernel launch: up to `kCapacity` tensors, none empty.
template <int kCapacity>
struct Launch {
  DeviceHyperparameters hyperparameters;
  LaunchTensor tensors[kCapacity];
  int32_t first_block[kCapacity];  // Of each tensor: ascending from 0.
  int32_t num_tensors;
  int32_t num_blocks;
};

// Small lists fit into 4 KB of parameters, which cost less to launch; a kernel may have 32,764
// bytes.
inline constexpr int kSmallCapacity = 91;
inline constexpr int kLargeCapacity = 743;
static_assert(sizeof(Launch<kSmallCapacity>) <= 4096 && sizeof(Launch<kLargeCapacity>) <= 32764);
static_assert(std::is_trivially_copyable_v<Launch<kLargeCapacity>>);

// Where a block works: elements [begin, end) of tensors[tensor].
struct Chunk {
  int32_t tensor;
  int64_t begin;
  int64_t end;
};

template <int kCapacity>
TF_ADADELTA_INLINE Chunk FindChunk(const Launch<kCapacity>& launch, int32_t block,
                                   int64_t chunk_elements) {
  int32_t tensor = 0;  // The last whose first block is not behind `block`.
  for (int32_t stop = launch.num_tensors; stop - tensor > 1;) {
    const int32_t middle = (tensor + stop) / 2;
    (launch.first_block[middle] <= block ? tensor : stop) = middle;
  }
  const int64_t begin = (block - launch.first_block[tensor]) * chunk_elements;
  const int64_t rest = launch.tensors[tensor].count - begin;
  return {tensor, begin, begin + (rest < chunk_elements ? rest : chunk_elements)};
}

namespace internal {

// What remains of a tensor once its first `elements` are taken.
inline LaunchTensor Behind(const LaunchTensor& tensor, int64_t elements, int64_t element_size) {
  const auto advance = [&](auto* pointer) {
    return reinterpret_cast<decltype(pointer)>(reinterpret_cast<uintptr_t>(pointer) +
                                               static_cast<uintptr_t>(elements * element_size));
  };
  return {advance(tensor.var), advance(tensor.accum), advance(tensor.accum_update),
          advance(tensor.grad), tensor.count - elements};
}

// Fills one launch from the tensors [next, end), and advances `next` to what did not fit.
template <int kCapacity>
Launch<kCapacity> TakeLaunch(int64_t element_size, int64_t max_blocks,
                             const DeviceHyperparameters& hyperparameters,
                             std::vector<LaunchTensor>::iterator& next,
                             const std::vector<LaunchTensor>::iterator& end) {
  const int64_t chunk_elements = kChunkBytes / element_size;
  Launch<kCapacity> launch;
  launch.hyperparameters = hyperparameters;
  launch.num_tensors = 0;
  int64_t blocks = 0;
  while (next != end && launch.num_tensors < kCapacity && blocks < max_blocks) {
    const int64_t wanted = next->count / chunk_elements + (next->count % chunk_elements != 0);
    const int64_t taken = std::min(wanted, max_blocks - blocks);
    LaunchTensor& tensor = launch.tensors[launch.num_tensors];
    tensor = *next;
    launch.first_block[launch.num_tensors++] = static_cast<int32_t>(blocks);
    blocks += taken;
    if (taken == wanted) {
      ++next;
    } else {
      tensor.count = taken * chunk_elements;
      *next = Behind(*next, tensor.count, element_size);
    }
  }
  launch.num_blocks = static_cast<int32_t>(blocks);
  return launch;
}

}  // namespace internal

// Calls `visit(launch)` for each launch that the update takes, with a Launch of either capacity.
template <typename Visit>
void ForEachLaunch(const std::vector<TensorUpdate>& updates, int64_t element_size,
                   const DeviceHyperparameters& hyperparameters, const Visit& visit,
                   int64_t max_blocks = std::numeric_limits<int32_t>::max()) {
  std::vector<LaunchTensor> rest;
  rest.reserve(updates.size());
  for (const TensorUpdate& u : updates) {
    if (u.count > 0) rest.push_back({u.var, u.accum, u.accum_update, u.grad, u.count});
  }
  for (auto next = rest.begin(); next != rest.end();) {
    if (rest.end() - next <= kSmallCapacity) {
      visit(internal::TakeLaunch<kSmallCapacity>(element_size, max_blocks, hyperparameters, next,
                                                 rest.end()));
    } else {
      visit(internal::TakeLaunch<kLargeCapacity>(element_size, max_blocks, hyperparameters, next,
                                                 rest.end()));
    }
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_LAUNCH_PLAN_H_
