// The kernels on NumPy arrays, without TensorFlow: the extension module tf_adadelta._kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "partition.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

DType ToDType(const py::array& array, const std::string& what) {
  const std::string name = py::str(array.dtype());
  if (name == "float16") return DType::kHalf;
  if (name == "bfloat16") return DType::kBFloat16;
  if (name == "float32") return DType::kFloat;
  if (name == "float64") return DType::kDouble;
  throw py::type_error(what + " has dtype " + name +
                       ", expected float16, bfloat16, float32 or float64");
}

std::string ShapeOf(const py::array& array) { return py::str(py::object(array.attr("shape"))); }

// The four lists of a call, checked as they are gathered.
class Arrays {
 public:
  Arrays(const std::vector<py::array>& vars, const std::vector<py::array>& accums,
         const std::vector<py::array>& accum_updates, const std::vector<py::array>& grads) {
    const std::vector<std::pair<const char*, const std::vector<py::array>*>> lists = {
        {"variables", &vars},
        {"accums", &accums},
        {"accum_updates", &accum_updates},
        {"grads", &grads}};
    for (const auto& [name, list] : lists) {
      if (list->size() != vars.size()) {
        throw py::value_error(std::string(name) + " has " + std::to_string(list->size()) +
                              " arrays, expected " + std::to_string(vars.size()) +
                              ", one for each variable");
      }
    }
    if (vars.empty()) return;
    dtype_ = ToDType(vars[0], "variables[0]");
    updates_.reserve(vars.size());
    extents_.reserve(4 * vars.size());
    for (size_t i = 0; i < vars.size(); ++i) {
      for (const auto& [name, list] : lists) {
        Check((*list)[i], vars[i], vars[0].dtype(), {name, i, /*written=*/list != &grads});
      }
      updates_.push_back({Data(vars[i]), Data(accums[i]), Data(accum_updates[i]), Data(grads[i]),
                          static_cast<int64_t>(vars[i].size())});
    }
    CheckOverlap();
  }

  DType dtype() const { return dtype_; }
  const std::vector<TensorUpdate>& updates() const { return updates_; }

 private:
  // Where an array stands in the call, such as "accums[2]".
  struct Position {
    std::string Describe() const { return std::string(list) + "[" + std::to_string(i) + "]"; }

    const char* list;
    size_t i;
    bool written;
  };

  struct Extent {
    uintptr_t begin;
    uintptr_t end;
    Position position;
  };

  static void* Data(const py::array& array) { return const_cast<void*>(array.data()); }

  void Check(const py::array& array, const py::array& var, const py::dtype& dtype,
             const Position& position) {
    if (!array.dtype().is(dtype) && !array.dtype().equal(dtype)) {
      throw py::type_error(position.Describe() + " has dtype " +
                           std::string(py::str(array.dtype())) + ", expected " +
                           std::string(py::str(dtype)) + ", the dtype of variables[0]");
    }
    if (array.ndim() != var.ndim() ||
        !std::equal(array.shape(), array.shape() + array.ndim(), var.shape())) {
      throw py::value_error(position.Describe() + " has shape " + ShapeOf(array) + ", expected " +
                            ShapeOf(var) + ", the shape of its variable");
    }
    if (!(array.flags() & py::array::c_style)) {
      throw py::value_error(position.Describe() + " is not C-contiguous");
    }
    const auto begin = reinterpret_cast<uintptr_t>(array.data());
    if (begin % dtype.alignment() != 0) {
      throw py::value_error(position.Describe() + " is not aligned to its dtype");
    }
    if (position.written && !array.writeable()) {
      throw py::value_error(position.Describe() + " is read-only");
    }
    if (array.size() > 0) {
      extents_.push_back({begin, begin + static_cast<uintptr_t>(array.nbytes()), position});
    }
  }

  // An array that is written may share memory with no other one. Sorted by where they begin, each
  // need only be compared with what reaches furthest among those before it.
  void CheckOverlap() {
    std::sort(extents_.begin(), extents_.end(),
              [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
    const Extent* furthest = nullptr;
    const Extent* furthest_written = nullptr;
    for (const Extent& extent : extents_) {
      const Extent* const other = extent.position.written ? furthest : furthest_written;
      if (other != nullptr && other->end > extent.begin) {
        throw py::value_error(other->position.Describe() + " and " + extent.position.Describe() +
                              " share memory");
      }
      if (furthest == nullptr || extent.end > furthest->end) furthest = &extent;
      if (extent.position.written &&
          (furthest_written == nullptr || extent.end > furthest_written->end)) {
        furthest_written = &extent;
      }
    }
  }

  DType dtype_ = DType::kFloat;
  std::vector<TensorUpdate> updates_;
  std::vector<Extent> extents_;
};

const InstructionSet& FindInstructionSet(const std::string& name) {
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (set.name == name && set.supported()) return set;
  }
  throw py::value_error("instruction_set is '" + name + "', expected one of instruction_sets()");
}

void Run(LoopKind kind, const Arrays& arrays, const Hyperparameters& hyperparameters,
         int num_threads, const std::string& instruction_set) {
  if (num_threads < 1) {
    throw py::value_error("num_threads is " + std::to_string(num_threads) + ", expected 1 or more");
  }
  const InstructionSet& set =
      instruction_set.empty() ? BestInstructionSet() : FindInstructionSet(instruction_set);
  std::vector<std::thread> threads;
  const Workers workers = {num_threads, [&threads](std::function<void()> task) {
                             try {
                               threads.emplace_back(std::move(task));
                             } catch (const std::system_error&) {
                               // No thread to be had: those that there are do the work.
                             }
                           }};
  const py::gil_scoped_release release;
  DenseUpdate(arrays.dtype(), arrays.updates(), hyperparameters, workers, kind, set);
  for (std::thread& thread : threads) thread.join();
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

using ArrayList = std::vector<py::array>;

}  // namespace
}  // namespace tf_adadelta

PYBIND11_MODULE(_kernels, m) {
  using tf_adadelta::ArrayList;
  using tf_adadelta::LoopKind;

  m.def("fused_adadelta_apply",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, double learning_rate, double rho, double epsilon,
           int num_threads, const std::string& instruction_set) {
          tf_adadelta::Run(LoopKind::kAdadelta, {variables, accums, accum_updates, grads},
                           {learning_rate, rho, epsilon}, num_threads, instruction_set);
        });
  m.def("copy_streams",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, int num_threads, const std::string& instruction_set) {
          tf_adadelta::Run(LoopKind::kCopy, {variables, accums, accum_updates, grads}, {},
                           num_threads, instruction_set);
        });
  m.def("instruction_sets", &tf_adadelta::SupportedInstructionSets);
  m.def("partition", &tf_adadelta::Pieces);
}
