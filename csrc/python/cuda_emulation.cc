// The CUDA kernel on NumPy arrays, for the tests: every thread of it, one after the other.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "cuda/compute.h"
#include "cuda/dense_thread.h"
#include "cuda/launch_plan.h"
#include "cuda/norms_thread.h"
#include "cuda/sparse_thread.h"
#include "python/arrays.h"
#include "python/cuda.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

using NumpyList = std::vector<py::array>;

// Scalars as they come from Python, or in memory of their own.
struct ScalarMaker {
  cuda::Scalar operator()(const double& value) const {
    return by_pointer ? cuda::Scalar{&value, std::nan("")} : cuda::Scalar{nullptr, value};
  }

  bool by_pointer;
};

void EmulateOnHost(const NumpyList& variables, const NumpyList& accums,
                   const NumpyList& accum_updates, const NumpyList& grads,
                   const std::optional<NumpyList>& averages,
                   const std::optional<NumpyList>& grad_accums, double learning_rate, double rho,
                   double epsilon, bool options, double grad_scale, double update,
                   const std::optional<std::vector<double>>& clip_factors, double clipvalue,
                   double weight_decay, double ema_momentum,
                   const std::optional<std::vector<int64_t>>& random_seeds, int64_t step,
                   bool by_pointer, int64_t max_blocks) {
  NumpyViews views;
  const auto views_of = [&](const std::optional<NumpyList>& arrays) {
    return arrays ? std::make_optional(views(*arrays)) : std::nullopt;
  };
  DenseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads),
                     views_of(averages), views_of(grad_accums));
  arrays.RoundAtRandom(random_seeds);
  const ScalarMaker scalar = {by_pointer};
  cuda::DeviceHyperparameters h = {
      scalar(learning_rate), scalar(rho), scalar(epsilon), {nullptr, step}};
  const int64_t* const seeds = random_seeds ? random_seeds->data() : nullptr;
  if (by_pointer) h.random = {&step, -1, seeds};
  const cuda::DeviceOptions o = {
      scalar(grad_scale),   scalar(update),       scalar(clipvalue),
      scalar(weight_decay), scalar(ema_momentum), clip_factors ? clip_factors->data() : nullptr};
  WithStorage(arrays.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    cuda::WithDenseKind<Storage>(
        options, averages.has_value(), grad_accums.has_value(), [&](auto kind) {
          cuda::ForEachDenseLaunch<decltype(kind)>(
              arrays.updates, cuda::kUnitSize<Storage>, h, options ? &o : nullptr,
              [](const auto& launch) {
                for (int32_t block = 0; block < launch.num_blocks; ++block) {
                  for (int thread = 0; thread < cuda::kThreads; ++thread) {
                    cuda::DenseThread<Storage>(launch, block, thread);
                  }
                }
              },
              max_blocks);
        });
  });
}

// What a block of threads adds up to, `bring(thread)` being what each of them brings.
template <int kBlockThreads, typename Bring>
double AddUp(const Bring& bring) {
  double sums[kBlockThreads];
  for (int thread = 0; thread < kBlockThreads; ++thread) sums[thread] = bring(thread);
  for (int half = kBlockThreads / 2; half > 0; half /= 2) {
    for (int thread = 0; thread < kBlockThreads; ++thread) cuda::AddHalf(sums, half, thread);
  }
  return sums[0];
}

std::vector<double> EmulateNormsOnHost(const NumpyList& grads,
                                       const std::optional<NumpyList>& grad_accums,
                                       double grad_scale, double update, bool by_pointer,
                                       int64_t max_blocks) {
  NumpyViews views;
  const NormArrays arrays(views(grads),
                          grad_accums ? std::make_optional(views(*grad_accums)) : std::nullopt);
  const ScalarMaker scalar = {by_pointer};
  std::vector<double> squared_norms(grads.size(), std::nan(""));
  WithElement(arrays.dtype, [&](auto storage) {
    using Storage = decltype(storage);
    cuda::WithNormKind(arrays.inputs, [&](auto kind) {
      using Kind = decltype(kind);
      std::vector<double> pieces(cuda::CountPieces<Kind>(arrays.inputs, sizeof(Storage)),
                                 std::nan(""));
      cuda::ForEachSquareLaunch<Kind>(
          arrays.inputs, sizeof(Storage), scalar(grad_scale), scalar(update), pieces.data(),
          [](const auto& launch) {
            for (int32_t block = 0; block < launch.num_blocks; ++block) {
              launch.scalars.pieces[block] = AddUp<cuda::kThreads>(
                  [&](int thread) { return cuda::SquareThread<Storage>(launch, block, thread); });
            }
          },
          max_blocks);
      cuda::ForEachPieceLaunch<Kind>(arrays.inputs, sizeof(Storage), pieces.data(),
                                     squared_norms.data(), [](const cuda::PieceLaunch& launch) {
                                       for (int tensor = 0; tensor < launch.num_tensors; ++tensor) {
                                         launch.squared_norms[tensor] =
                                             AddUp<cuda::kPieceThreads>([&](int thread) {
                                               return cuda::PieceThread(launch, tensor, thread);
                                             });
                                       }
                                     });
    });
  });
  return squared_norms;
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
  using Compute = ComputeOf<Storage>;
  const int64_t most_sums[] = {cuda::MostSums<1>(update), cuda::MostSums<2>(update)};
  std::vector<Compute> sums[kSumLevels];
  for (int i = 0; i < kSumLevels; ++i) {
    sums[i].assign(most_sums[i] * update.row_elements, std::nan(""));
  }
  const cuda::SparseTask task = {update,
                                 h,
                                 sorted.data(),
                                 order.data(),
                                 ends.data(),
                                 half_decays.data(),
                                 {sums[0].data(), sums[1].data()}};
  for (int64_t thread = 0; thread < num_threads; ++thread) {
    cuda::RowThread<Compute>(task, thread, num_threads);
  }
  const auto launch_rows = [&](bool in_blocks, int64_t rows, const auto& run_thread) {
    const cuda::RowGrid grid =
        cuda::MakeRowGrid(in_blocks, rows, update.row_elements, max_blocks, max_pieces);
    for (int64_t block = 0; block < grid.blocks; ++block) {
      for (int64_t piece = 0; piece < grid.pieces; ++piece) {
        for (int thread = 0; thread < cuda::kSparseThreads; ++thread) {
          run_thread(task, grid, block, piece, thread);
        }
      }
    }
  };
  launch_rows(false, most_sums[0], &cuda::SumThread<1, Storage>);
  launch_rows(false, most_sums[1], &cuda::SumThread<2, Storage>);
  launch_rows(kInBlocks<Storage>, count, &cuda::UpdateThread<Storage>);
}

// Returns the position of the first bad index of each variable, -1 where there is none.
std::vector<int64_t> EmulateSparseOnHost(const NumpyList& variables, const NumpyList& accums,
                                         const NumpyList& accum_updates, const NumpyList& grads,
                                         const NumpyList& indices,
                                         const std::optional<NumpyList>& clocks,
                                         double learning_rate, double rho, double epsilon,
                                         const std::optional<std::vector<int64_t>>& random_seeds,
                                         int64_t step, int64_t max_blocks, int64_t max_pieces) {
  NumpyViews views;
  SparseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads),
                      views(indices), clocks ? std::make_optional(views(*clocks)) : std::nullopt);
  arrays.RoundAtRandom(random_seeds);
  const cuda::DeviceHyperparameters h = {
      {nullptr, learning_rate}, {nullptr, rho}, {&epsilon, 0.0}, {&step, -1}};
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
  WithStorage(arrays.dtype, with_index);
  return bad_positions;
}

// The launches that update tensors of these first addresses and counts: for each the number of its
// blocks, and for every `stride`-th block (block, begin, end), the addresses where it works.
using Blocks = std::vector<std::tuple<int64_t, uintptr_t, uintptr_t>>;
std::vector<std::tuple<int64_t, Blocks>> LaunchesOf(const std::vector<uintptr_t>& starts,
                                                    const std::vector<int64_t>& counts,
                                                    bool options, bool average, bool grad_accum,
                                                    int64_t itemsize, int64_t max_blocks,
                                                    int64_t stride) {
  std::vector<TensorUpdate> updates;
  for (size_t i = 0; i < starts.size(); ++i) {
    void* const start = reinterpret_cast<void*>(starts[i]);
    updates.push_back({start, start, start, start, counts[i], average ? start : nullptr,
                       grad_accum ? start : nullptr});
  }
  const cuda::DeviceOptions none;
  const cuda::DeviceOptions* const o = options ? &none : nullptr;
  std::vector<std::tuple<int64_t, Blocks>> launches;
  cuda::WithDenseKind<float>(options, average, grad_accum, [&](auto kind) {
    cuda::ForEachDenseLaunch<decltype(kind)>(
        updates, itemsize, {}, o,
        [&](const auto& launch) {
          Blocks blocks;
          for (int64_t block = 0; block < launch.num_blocks; block += stride) {
            const cuda::Chunk chunk =
                cuda::FindChunk(launch, static_cast<int32_t>(block), itemsize);
            const auto& streams = launch.tensors[chunk.tensor].streams;
            const auto start = reinterpret_cast<uintptr_t>(streams[0]);
            for (const void* stream : streams) {
              if (stream != streams[0]) throw std::logic_error("the streams have gone apart");
            }
            blocks.emplace_back(block, start + chunk.begin * itemsize,
                                start + chunk.end * itemsize);
          }
          launches.emplace_back(launch.num_blocks, std::move(blocks));
        },
        max_blocks);
  });
  return launches;
}

}  // namespace

void DefineCudaEmulation(py::module_& module) {
  module.def("emulate_cuda", &EmulateOnHost);
  module.def("emulate_cuda_sparse", &EmulateSparseOnHost);
  module.def("cuda_launches", &LaunchesOf);
  module.def("emulate_cuda_norms", &EmulateNormsOnHost);
  module.attr("CUDA_CHUNK_BYTES") =
      cuda::kChunkBytes<cuda::DenseKind<false, false, false, false, false>>;
  module.attr("CUDA_NORM_CHUNK_BYTES") = cuda::kChunkBytes<cuda::NormKind<false>>;
}

}  // namespace tf_adadelta
