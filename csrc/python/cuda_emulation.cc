// The CUDA kernel on NumPy arrays, for the tests: every thread of it, one after the other.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/dense_thread.h"
#include "cuda/launch_plan.h"
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
  module.def("cuda_launches", &LaunchesOf);
  module.attr("CUDA_CHUNK_BYTES") = cuda::kChunkBytes;
}

}  // namespace tf_adadelta
