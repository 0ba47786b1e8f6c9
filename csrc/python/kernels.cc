// The kernels on NumPy arrays, without TensorFlow: the extension module tf_adadelta._kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "cpu/norms.h"
#include "cpu/sparse.h"
#include "partition.h"
#include "python/arrays.h"
#include "python/cuda.h"
#include "python/threads.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

const InstructionSet& FindInstructionSet(const std::string& name) {
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (set.name == name && set.supported()) return set;
  }
  throw py::value_error("instruction_set is '" + name + "', expected one of instruction_sets()");
}

using ArrayList = std::vector<py::array>;
using Seeds = std::optional<std::vector<int64_t>>;

// Calls `update(workers, instruction_set)`.
template <typename Update>
void Run(int num_threads, const std::string& instruction_set, const Update& update) {
  if (num_threads < 1) {
    throw py::value_error("num_threads is " + std::to_string(num_threads) + ", expected 1 or more");
  }
  const InstructionSet& set =
      instruction_set.empty() ? BestInstructionSet() : FindInstructionSet(instruction_set);
  const py::gil_scoped_release release;
  update(SharedWorkers(num_threads), set);
}

std::optional<ViewList> ViewsOf(NumpyViews& views, const std::optional<ArrayList>& arrays) {
  return arrays ? std::make_optional(views(*arrays)) : std::nullopt;
}

void RunDense(const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
              const ArrayList& grads, const std::optional<ArrayList>& averages,
              const std::optional<ArrayList>& grad_accums, const Hyperparameters& h,
              const std::optional<std::vector<double>>& clip_factors, Options options,
              const Seeds& random_seeds, int num_threads, const std::string& instruction_set) {
  NumpyViews views;
  DenseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads),
                     ViewsOf(views, averages), ViewsOf(views, grad_accums));
  arrays.RoundAtRandom(random_seeds);
  if (clip_factors) {
    if (clip_factors->size() != variables.size()) {
      throw py::value_error("clip_factors has length " + std::to_string(clip_factors->size()) +
                            ", expected " + std::to_string(variables.size()) +
                            ", one for each variable");
    }
    options.clip_factors = clip_factors->data();
  }
  Run(num_threads, instruction_set, [&](const Workers& workers, const InstructionSet& set) {
    DenseUpdate(arrays.dtype, arrays.updates, h, options, workers, LoopKind::kAdadelta, set);
  });
}

void RunCopy(const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
             const ArrayList& grads, int num_threads, const std::string& instruction_set) {
  NumpyViews views;
  const DenseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads));
  Run(num_threads, instruction_set, [&](const Workers& workers, const InstructionSet& set) {
    DenseUpdate(arrays.dtype, arrays.updates, {}, {}, workers, LoopKind::kCopy, set);
  });
}

std::vector<double> RunNorms(const ArrayList& grads, const std::optional<ArrayList>& grad_accums,
                             double grad_scale, bool update, int num_threads,
                             const std::string& instruction_set) {
  NumpyViews views;
  const NormArrays arrays(views(grads), ViewsOf(views, grad_accums));
  std::vector<double> squared_norms(grads.size());
  if (!update) return squared_norms;
  Run(num_threads, instruction_set, [&](const Workers& workers, const InstructionSet& set) {
    SquaredNorms(arrays.dtype, arrays.inputs, grad_scale, squared_norms.data(), workers, set);
  });
  return squared_norms;
}

void RunSparse(const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
               const ArrayList& grads, const ArrayList& indices,
               const std::optional<ArrayList>& clocks, const Hyperparameters& h,
               const Seeds& random_seeds, int num_threads, const std::string& instruction_set) {
  NumpyViews views;
  SparseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads),
                      views(indices), ViewsOf(views, clocks));
  arrays.RoundAtRandom(random_seeds);
  if (const std::optional<BadIndex> bad = FindBadIndex(arrays.index_type, arrays.updates)) {
    throw py::index_error(bad->Describe());
  }
  Run(num_threads, instruction_set, [&](const Workers& workers, const InstructionSet& set) {
    SparseUpdate(arrays.dtype, arrays.index_type, arrays.updates, h, workers, set);
  });
}

std::vector<std::string> SupportedInstructionSets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (set.supported()) names.push_back(set.name);
  }
  return names;
}

// The pieces (block, tensor, begin, end) of a list of tensors, for the tests.
std::vector<std::tuple<int64_t, size_t, int64_t, int64_t>> Pieces(
    const std::vector<int64_t>& counts, int64_t block_elements) {
  const Partition partition(counts, block_elements);
  std::vector<std::tuple<int64_t, size_t, int64_t, int64_t>> pieces;
  for (int64_t block = 0; block < partition.num_blocks(); ++block) {
    partition.ForEachPiece(block, [&](size_t tensor, int64_t begin, int64_t end) {
      pieces.emplace_back(block, tensor, begin, end);
    });
  }
  return pieces;
}

}  // namespace
}  // namespace tf_adadelta

PYBIND11_MODULE(_kernels, m) {
  using tf_adadelta::ArrayList;

  using tf_adadelta::Options;
  using tf_adadelta::Seeds;

  m.def("fused_adadelta_apply",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, const std::optional<ArrayList>& averages,
           const std::optional<ArrayList>& grad_accums, double learning_rate, double rho,
           double epsilon, double grad_scale, bool update,
           const std::optional<std::vector<double>>& clip_factors, double clipvalue,
           double weight_decay, double ema_momentum, const Seeds& random_seeds, int64_t step,
           int num_threads, const std::string& instruction_set) {
          tf_adadelta::RunDense(
              variables, accums, accum_updates, grads, averages, grad_accums,
              {learning_rate, rho, epsilon, step}, clip_factors,
              Options{grad_scale, update, nullptr, clipvalue, weight_decay, ema_momentum},
              random_seeds, num_threads, instruction_set);
        });
  m.def("fused_adadelta_sparse_apply",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, const ArrayList& indices, const std::optional<ArrayList>& clocks,
           double learning_rate, double rho, double epsilon, const Seeds& random_seeds,
           int64_t step, int num_threads, const std::string& instruction_set) {
          tf_adadelta::RunSparse(variables, accums, accum_updates, grads, indices, clocks,
                                 {learning_rate, rho, epsilon, step}, random_seeds, num_threads,
                                 instruction_set);
        });
  m.def("copy_streams", &tf_adadelta::RunCopy);
  m.def("squared_norms", &tf_adadelta::RunNorms);
  m.def("instruction_sets", &tf_adadelta::SupportedInstructionSets);
  m.def("partition", &tf_adadelta::Pieces);
  tf_adadelta::DefineCudaFunctions(m);
  tf_adadelta::DefineCudaEmulation(m);
}
