// The CUDA kernel on NumPy arrays, for the tests: every thread of it, one after the other.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/dense_thread.h"
#include "cuda/launch_plan.h"
#include "cuda/sparse_thread.h"
#include "python/arrays.h"
#include "python/cuda.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

using NumpyList = std::vector<py::array>;

template <typename Storage>
void Emulate(const DenseArrays& arrays, const cuda::DeviceHyperparameters& hyperparameters,
             int64_t max_blocks) {
  cuda::ForEachLaunch(
      arrays.updates, sizeof(Storage), hyperparameters,
      [](const auto& launch) {
        for (int32_t block = 0; block < launch.num_blocks; ++block) {
          for (int thread = 0; thread < cuda::kThreads; ++thread) {
            cuda::DenseThread<Storage>(launch, block, thread);
          }
        }
      },
      max_blocks);
}

void EmulateOnHost(const NumpyList& variables, const NumpyList& accums,
                   const NumpyList& accum_updates, const NumpyList& grads, double learning_rate,
                   double rho, double epsilon, bool by_pointer, int64_t max_blocks) {
  NumpyViews views;
  const DenseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads));
  const auto scalar = [by_pointer](const double& value) {
    return by_pointer ? cuda::Scalar{&value, 0.0} : cuda::Scalar{nullptr, value};
  };
  const cuda::DeviceHyperparameters h = {scalar(learning_rate), scalar(rho), scalar(epsilon)};
  switch (arrays.dtype) {
    case DType::kHalf:
      return Emulate<Half>(arrays, h, max_blocks);
    case DType::kBFloat16:
      return Emulate<BFloat16>(arrays, h, max_blocks);
    case DType::kFloat:
      return Emulate<float>(arrays, h, max_blocks);
    case DType::kDouble:
      return Emulate<double>(arrays, h, max_blocks);
  }
}

// The same for the kernels of the sparse update, with std::stable_sort in the place of CUB's sort.
template <typename Storage, typename Index>
void EmulateSparse(const SparseTensorUpdate& update, const cuda::DeviceHyperparameters& h,
                   int64_t max_blocks, int64_t max_pieces) {
  const int64_t num_threads = max_blocks * cuda::kSparseThreads;
  const int64_t count = update.num_indices;
  std::vector<uint64_t> keys(count);
  std::vector<int64_t> order(count);
  for (int64_t thread = 0; thread < num_threads; ++thread) {
    cuda::KeyThread<Index>(update, thread, num_threads, keys.data(), order.data());
  }
  // By the bits alone that the sort looks at.
  const uint64_t mask = (uint64_t{1} << cuda::KeyBits(update.rows)) - 1;
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return (keys[a] & mask) < (keys[b] & mask); });
  std::vector<uint64_t> sorted(count);
  std::transform(order.begin(), order.end(), sorted.begin(), [&](int64_t i) { return keys[i]; });
  std::vector<int64_t> ends(count, -1);
  std::vector<double> half_decays(count, std::nan(""));
  const cuda::SparseTask task = {update,       h,           sorted.data(),
                                 order.data(), ends.data(), half_decays.data()};
  for (int64_t thread = 0; thread < num_threads; ++thread) {
    cuda::RowThread<typename cuda::ComputeOf<Storage>::type>(task, thread, num_threads);
  }
  const cuda::UpdateGrid grid = cuda::MakeUpdateGrid(update, max_blocks, max_pieces);
  for (int64_t block = 0; block < grid.blocks; ++block) {
    for (int64_t piece = 0; piece < grid.pieces; ++piece) {
      for (int thread = 0; thread < cuda::kSparseThreads; ++thread) {
        cuda::UpdateThread<Storage>(task, grid, block, piece, thread);
      }
    }
  }
}

// Returns the position of the first bad index of each variable, -1 where there is none.
std::vector<int64_t> EmulateSparseOnHost(const NumpyList& variables, const NumpyList& accums,
                                         const NumpyList& accum_updates, const NumpyList& grads,
                                         const NumpyList& indices,
                                         const std::optional<NumpyList>& clocks,
                                         double learning_rate, double rho, double epsilon,
                                         int64_t max_blocks, int64_t max_pieces) {
  NumpyViews views;
  const SparseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads),
                            views(indices),
                            clocks ? std::make_optional(views(*clocks)) : std::nullopt);
  const cuda::DeviceHyperparameters h = {{nullptr, learning_rate}, {nullptr, rho}, {&epsilon, 0.0}};
  std::vector<int64_t> bad_positions;
  const auto run = [&](auto storage, auto index) {
    using Storage = decltype(storage);
    using Index = decltype(index);
    for (const SparseTensorUpdate& update : arrays.updates) {
      const int64_t num_threads = max_blocks * cuda::kSparseThreads;
      int64_t first = update.num_indices;
      for (int64_t thread = 0; thread < num_threads; ++thread) {
        first = std::min(first, cuda::BadPosition<Index>(update, thread, num_threads));
      }
      bad_positions.push_back(first < update.num_indices ? first : -1);
      EmulateSparse<Storage, Index>(update, h, max_blocks, max_pieces);
    }
  };
  const auto with_index = [&](auto storage) {
    arrays.index_type == IndexType::kInt32 ? run(storage, int32_t{}) : run(storage, int64_t{});
  };
  switch (arrays.dtype) {
    case DType::kHalf:
      with_index(Half{});
      break;
    case DType::kBFloat16:
      with_index(BFloat16{});
      break;
    case DType::kFloat:
      with_index(float{});
      break;
    case DType::kDouble:
      with_index(double{});
      break;
  }
  return bad_positions;
}

// The launches that update tensors of these first addresses and counts: for each the number of its
// blocks, and for every `stride`-th block (block, begin, end), the addresses where it works.
using Blocks = std::vector<std::tuple<int64_t, uintptr_t, uintptr_t>>;
std::vector<std::tuple<int64_t, Blocks>> LaunchesOf(const std::vector<uintptr_t>& starts,
                                                    const std::vector<int64_t>& counts,
                                                    int64_t itemsize, int64_t max_blocks,
                                                    int64_t stride) {
  std::vector<TensorUpdate> updates;
  for (size_t i = 0; i < starts.size(); ++i) {
    void* const start = reinterpret_cast<void*>(starts[i]);
    updates.push_back({start, start, start, start, counts[i]});
  }
  std::vector<std::tuple<int64_t, Blocks>> launches;
  cuda::ForEachLaunch(
      updates, itemsize, {},
      [&](const auto& launch) {
        Blocks blocks;
        for (int64_t block = 0; block < launch.num_blocks; block += stride) {
          const cuda::Chunk chunk =
              cuda::FindChunk(launch, static_cast<int32_t>(block), cuda::kChunkBytes / itemsize);
          const auto start = reinterpret_cast<uintptr_t>(launch.tensors[chunk.tensor].var);
          blocks.emplace_back(block, start + chunk.begin * itemsize, start + chunk.end * itemsize);
        }
        launches.emplace_back(launch.num_blocks, std::move(blocks));
      },
      max_blocks);
  return launches;
}

}  // namespace

void DefineCudaEmulation(py::module_& module) {
  module.def("emulate_cuda", &EmulateOnHost);
  module.def("emulate_cuda_sparse", &EmulateSparseOnHost);
  module.def("cuda_launches", &LaunchesOf);
  module.attr("CUDA_CHUNK_BYTES") = cuda::kChunkBytes;
}

}  // namespace tf_adadelta
