#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <type_traits>
#include <vector>

#include "cuda/compute.h"
#include "cuda/runtime.h"
#include "cuda/sort.h"
#include "cuda/sparse.h"
#include "cuda/sparse_thread.h"

namespace tf_adadelta::cuda {
namespace {

// What a launch may have of blocks in x and in y.
constexpr int64_t kMostBlocks = 2147483647;
constexpr int64_t kMostPieces = 65535;

__device__ int64_t ThreadOfGrid() {
  return int64_t{blockIdx.x} * kSparseThreads + static_cast<int64_t>(threadIdx.x);
}
__device__ int64_t ThreadsOfGrid() { return int64_t{gridDim.x} * kSparseThreads; }

template <typename Index>
__global__ void __launch_bounds__(kSparseThreads)
    BadPositionKernel(const SparseTensorUpdate update, unsigned long long* first) {
  const int64_t position = BadPosition<Index>(update, ThreadOfGrid(), ThreadsOfGrid());
  if (position < update.num_indices) atomicMin(first, static_cast<unsigned long long>(position));
}

template <typename Index>
__global__ void __launch_bounds__(kSparseThreads)
    KeyKernel(const SparseTensorUpdate update, uint64_t* keys, int64_t* positions) {
  KeyThread<Index>(update, ThreadOfGrid(), ThreadsOfGrid(), keys, positions);
}

template <typename Compute>
__global__ void __launch_bounds__(kSparseThreads) RowKernel(const SparseTask task) {
  RowThread<Compute>(task, ThreadOfGrid(), ThreadsOfGrid());
}

// How many blocks a multiprocessor must have room for. Left alone, the compiler takes too many
// registers for some architectures, and spills for others.
constexpr int kMinRowBlocks = 2;

template <typename Storage>
__global__ void __launch_bounds__(kSparseThreads, kMinRowBlocks)
    UpdateKernel(const SparseTask task, const RowGrid grid) {
  UpdateThread<Storage>(task, grid, blockIdx.x, blockIdx.y, static_cast<int>(threadIdx.x));
}

template <int kLevel, typename Storage>
__global__ void __launch_bounds__(kSparseThreads, kMinRowBlocks)
    SumKernel(const SparseTask task, const RowGrid grid) {
  SumThread<kLevel, Storage>(task, grid, blockIdx.x, blockIdx.y, static_cast<int>(threadIdx.x));
}

cudaError_t LaunchRows(void (*kernel)(SparseTask, RowGrid), bool in_blocks, int64_t rows,
                       const SparseTask& task, cudaStream_t stream) {
  const RowGrid grid =
      MakeRowGrid(in_blocks, rows, task.update.row_elements, kMostBlocks, kMostPieces);
  return LaunchKernel(kernel,
                      dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.pieces)),
                      kSparseThreads, stream, task, grid);
}

template <int kLevel, typename Storage>
cudaError_t LaunchSums(const SparseTask& task, cudaStream_t stream) {
  const int64_t most_sums = MostSums<kLevel>(task.update);
  if (most_sums == 0) return cudaSuccess;
  return LaunchRows(&SumKernel<kLevel, Storage>, false, most_sums, task, stream);
}

// The blocks of a launch with a thread for each index.
dim3 BlocksFor(int64_t num_indices) {
  const int64_t blocks = (num_indices - 1) / kSparseThreads + 1;
  return dim3(static_cast<unsigned>(std::clamp<int64_t>(blocks, 1, kMostBlocks)));
}

// Where everything stands in the memory that a call allocates. The variables of the call have it
// one after the other.
class Workspace {
 public:
  Workspace(const SparseTensorUpdate& update, size_t compute_size, size_t temporary_bytes)
      : pairs_(Place(update.num_indices, sizeof(int64_t))), temporary_bytes_(temporary_bytes) {
    const size_t row_bytes = static_cast<size_t>(update.row_elements) * compute_size;
    sums_[0] = Place(MostSums<1>(update), row_bytes);
    sums_[1] = Place(MostSums<2>(update), row_bytes);
  }

  size_t bytes() const { return 4 * pairs_ + sums_[0] + sums_[1] + temporary_bytes_; }
  size_t temporary_bytes() const { return temporary_bytes_; }
  PairBuffers buffers(char* memory) const {
    return {{reinterpret_cast<uint64_t*>(memory), reinterpret_cast<uint64_t*>(memory + pairs_)},
            {reinterpret_cast<int64_t*>(memory + 2 * pairs_),
             reinterpret_cast<int64_t*>(memory + 3 * pairs_)}};
  }
  void* sums(char* memory, int level) const {
    return memory + 4 * pairs_ + (level == 1 ? 0 : sums_[0]);
  }
  void* temporary(char* memory) const { return memory + 4 * pairs_ + sums_[0] + sums_[1]; }

 private:
  static size_t Place(int64_t count, size_t size) {
    return (static_cast<size_t>(count) * size + 255) / 256 * 256;
  }

  size_t pairs_;
  size_t sums_[kSumLevels];
  size_t temporary_bytes_;
};

template <typename Storage>
cudaError_t UpdateOne(IndexType index_type, const SparseTensorUpdate& update,
                      const DeviceHyperparameters& hyperparameters, const Workspace& workspace,
                      char* memory, cudaStream_t stream) {
  PairBuffers buffers = workspace.buffers(memory);
  const dim3 blocks = BlocksFor(update.num_indices);
  const auto key_kernel =
      index_type == IndexType::kInt32 ? &KeyKernel<int32_t> : &KeyKernel<int64_t>;
  cudaError_t error = LaunchKernel(key_kernel, blocks, kSparseThreads, stream, update,
                                   buffers.keys[0], buffers.positions[0]);
  if (error != cudaSuccess || update.num_indices == 0) return error;
  error = SortPairs(workspace.temporary(memory), workspace.temporary_bytes(), update.num_indices,
                    KeyBits(update.rows), stream, &buffers);
  if (error != cudaSuccess) return error;
  // What was sorted is needed no more.
  static_assert(sizeof(double) == sizeof(uint64_t));
  const SparseTask task = {update,
                           hyperparameters,
                           buffers.keys[0],
                           buffers.positions[0],
                           buffers.positions[1],
                           reinterpret_cast<double*>(buffers.keys[1]),
                           {workspace.sums(memory, 1), workspace.sums(memory, 2)}};
  error = LaunchKernel(&RowKernel<ComputeOf<Storage>>, blocks, kSparseThreads, stream, task);
  if (error != cudaSuccess || update.row_elements == 0) return error;
  error = LaunchSums<1, Storage>(task, stream);
  if (error != cudaSuccess) return error;
  error = LaunchSums<2, ComputeOf<Storage>>(task, stream);
  if (error != cudaSuccess) return error;
  return LaunchRows(&UpdateKernel<Storage>, kInBlocks<Storage>, update.num_indices, task, stream);
}

template <typename Storage>
std::string UpdateAll(IndexType index_type, const std::vector<SparseTensorUpdate>& updates,
                      const DeviceHyperparameters& hyperparameters, const Allocate& allocate,
                      cudaStream_t stream) {
  std::vector<Workspace> workspaces;
  workspaces.reserve(updates.size());
  size_t bytes = 0;
  for (const SparseTensorUpdate& update : updates) {
    size_t temporary_bytes = 0;
    if (update.num_indices > 0) {
      const cudaError_t error =
          SortBytes(update.num_indices, KeyBits(update.rows), &temporary_bytes);
      if (error != cudaSuccess) return Explain(error);
    }
    workspaces.emplace_back(update, sizeof(ComputeOf<Storage>), temporary_bytes);
    bytes = std::max(bytes, workspaces.back().bytes());
  }
  char* memory = nullptr;
  if (bytes > 0) {
    memory = static_cast<char*>(allocate(bytes));
    if (memory == nullptr) {
      return "no device memory for the " + std::to_string(bytes) + " bytes that the sort takes";
    }
  }
  for (size_t i = 0; i < updates.size(); ++i) {
    if (updates[i].num_indices == 0 && updates[i].clock == nullptr) continue;
    DeviceHyperparameters own = hyperparameters;
    if (own.random.seeds != nullptr) own.random.seeds += i;
    const cudaError_t error =
        UpdateOne<Storage>(index_type, updates[i], own, workspaces[i], memory, stream);
    if (error != cudaSuccess) return Explain(error);
  }
  return "";
}

}  // namespace

std::string SparseUpdate(DType dtype, IndexType index_type,
                         const std::vector<SparseTensorUpdate>& updates,
                         const DeviceHyperparameters& hyperparameters, const Allocate& allocate,
                         const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  return WithStorage(dtype, [&](auto storage) {
    return UpdateAll<decltype(storage)>(index_type, updates, hyperparameters, allocate, handle);
  });
}

bool IndicesAreChecked() {
  const char* const value = std::getenv("TF_ADADELTA_CHECK_INDICES");
  return value != nullptr && std::string(value) == "1";
}

std::string FindBadIndex(IndexType index_type, const std::vector<SparseTensorUpdate>& updates,
                         const Allocate& allocate, const Stream& stream,
                         std::optional<BadIndex>* bad) {
  if (updates.empty()) return "";
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  constexpr unsigned long long kNone = ~0ull;
  std::vector<unsigned long long> positions(updates.size(), kNone);
  const size_t bytes = positions.size() * sizeof(positions[0]);
  auto* const first = static_cast<unsigned long long*>(allocate(bytes));
  if (first == nullptr) return "no device memory for the check of the indices";
  cudaError_t error = cudaMemsetAsync(first, 0xff, bytes, handle);  // Of kNone.
  for (size_t i = 0; i < updates.size() && error == cudaSuccess; ++i) {
    if (updates[i].num_indices == 0) continue;
    const auto kernel =
        index_type == IndexType::kInt32 ? &BadPositionKernel<int32_t> : &BadPositionKernel<int64_t>;
    error = LaunchKernel(kernel, BlocksFor(updates[i].num_indices), kSparseThreads, handle,
                         updates[i], first + i);
  }
  const auto read = [&](void* to, const void* from, size_t size) {
    if (error == cudaSuccess) {
      error = cudaMemcpyAsync(to, from, size, cudaMemcpyDeviceToHost, handle);
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(handle);
  };
  read(positions.data(), first, bytes);
  if (error != cudaSuccess) return Explain(error);
  const auto found = std::find_if(positions.begin(), positions.end(),
                                  [](unsigned long long position) { return position != kNone; });
  if (found == positions.end()) return "";

  const size_t i = found - positions.begin();
  const auto position = static_cast<int64_t>(*found);
  int64_t index = 0;
  if (index_type == IndexType::kInt32) {
    int32_t narrow = 0;
    read(&narrow, static_cast<const int32_t*>(updates[i].indices) + position, sizeof(narrow));
    index = narrow;
  } else {
    read(&index, static_cast<const int64_t*>(updates[i].indices) + position, sizeof(index));
  }
  if (error != cudaSuccess) return Explain(error);
  *bad = BadIndex{i, position, index, updates[i].rows};
  return "";
}

}  // namespace tf_adadelta::cuda
