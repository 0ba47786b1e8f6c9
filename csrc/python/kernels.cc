// The kernels on NumPy arrays, without TensorFlow: the extension module tf_adadelta._kernels.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "cpu/sparse.h"
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

std::string ShapeOf(const std::vector<py::ssize_t>& shape) {
  py::tuple tuple(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) tuple[i] = shape[i];
  return py::str(tuple);
}

std::vector<py::ssize_t> Shape(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

void* Data(const py::array& array) { return const_cast<void*>(array.data()); }

using ArrayList = std::vector<py::array>;

// Checks the arrays of a call one by one, and then that none is written which another one shares.
class ArrayChecker {
 public:
  static void CheckLength(const char* list, size_t length, size_t expected) {
    if (length != expected) {
      throw py::value_error(std::string(list) + " has " + std::to_string(length) +
                            " arrays, expected " + std::to_string(expected) +
                            ", one for each variable");
    }
  }

  // `dtype` is that of `dtype_of`, and `shape` is what `shape_of` says.
  void Check(const py::array& array, const char* list, size_t i, bool written,
             const py::dtype& dtype, const char* dtype_of, const std::vector<py::ssize_t>& shape,
             const char* shape_of) {
    const Position position = {list, i, written};
    if (!array.dtype().is(dtype) && !array.dtype().equal(dtype)) {
      throw py::type_error(position.Describe() + " has dtype " +
                           std::string(py::str(array.dtype())) + ", expected " +
                           std::string(py::str(dtype)) + dtype_of);
    }
    if (Shape(array) != shape) {
      throw py::value_error(position.Describe() + " has shape " + ShapeOf(Shape(array)) +
                            ", expected " + ShapeOf(shape) + ", " + shape_of);
    }
    if (!(array.flags() & py::array::c_style)) {
      throw py::value_error(position.Describe() + " is not C-contiguous");
    }
    const auto begin = reinterpret_cast<uintptr_t>(array.data());
    if (begin % dtype.alignment() != 0) {
      throw py::value_error(position.Describe() + " is not aligned to its dtype");
    }
    if (written && !array.writeable()) {
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

  std::vector<Extent> extents_;
};

constexpr char kDTypeOfVariables[] = ", the dtype of variables[0]";

// The variables of a call with their averages, checked and gathered.
DType CheckVariables(ArrayChecker* checker, const ArrayList& vars, const ArrayList& accums,
                     const ArrayList& accum_updates) {
  checker->CheckLength("accums", accums.size(), vars.size());
  checker->CheckLength("accum_updates", accum_updates.size(), vars.size());
  if (vars.empty()) return DType::kFloat;
  const DType dtype = ToDType(vars[0], "variables[0]");
  for (size_t i = 0; i < vars.size(); ++i) {
    const std::vector<py::ssize_t> shape = Shape(vars[i]);
    for (const auto& [name, array] :
         {std::pair<const char*, const py::array&>("variables", vars[i]),
          {"accums", accums[i]},
          {"accum_updates", accum_updates[i]}}) {
      checker->Check(array, name, i, /*written=*/true, vars[0].dtype(), kDTypeOfVariables, shape,
                     "the shape of its variable");
    }
  }
  return dtype;
}

struct DenseArrays {
  DenseArrays(const ArrayList& vars, const ArrayList& accums, const ArrayList& accum_updates,
              const ArrayList& grads) {
    ArrayChecker checker;
    dtype = CheckVariables(&checker, vars, accums, accum_updates);
    checker.CheckLength("grads", grads.size(), vars.size());
    for (size_t i = 0; i < vars.size(); ++i) {
      checker.Check(grads[i], "grads", i, /*written=*/false, vars[0].dtype(), kDTypeOfVariables,
                    Shape(vars[i]), "the shape of its variable");
      updates.push_back({Data(vars[i]), Data(accums[i]), Data(accum_updates[i]), Data(grads[i]),
                         static_cast<int64_t>(vars[i].size())});
    }
    checker.CheckOverlap();
  }

  DType dtype;
  std::vector<TensorUpdate> updates;
};

IndexType ToIndexType(const py::array& array) {
  const std::string name = py::str(array.dtype());
  if (name == "int32") return IndexType::kInt32;
  if (name == "int64") return IndexType::kInt64;
  throw py::type_error("indices[0] has dtype " + name + ", expected int32 or int64");
}

struct SparseArrays {
  SparseArrays(const ArrayList& vars, const ArrayList& accums, const ArrayList& accum_updates,
               const ArrayList& grads, const ArrayList& indices,
               const std::optional<ArrayList>& clocks) {
    ArrayChecker checker;
    dtype = CheckVariables(&checker, vars, accums, accum_updates);
    checker.CheckLength("grads", grads.size(), vars.size());
    checker.CheckLength("indices", indices.size(), vars.size());
    if (clocks) checker.CheckLength("clocks", clocks->size(), vars.size());
    if (vars.empty()) return;
    index_type = ToIndexType(indices[0]);
    for (size_t i = 0; i < vars.size(); ++i) {
      if (vars[i].ndim() == 0) {
        throw py::value_error("variables[" + std::to_string(i) +
                              "] is a scalar, which has no rows");
      }
      const int64_t rows = vars[i].shape(0);
      checker.Check(indices[i], "indices", i, /*written=*/false, indices[0].dtype(),
                    ", the dtype of indices[0]", {indices[i].size()}, "one index a row");
      std::vector<py::ssize_t> shape = Shape(vars[i]);
      shape[0] = indices[i].size();
      int64_t row_elements = 1;
      for (size_t axis = 1; axis < shape.size(); ++axis) row_elements *= shape[axis];
      checker.Check(grads[i], "grads", i, /*written=*/false, vars[0].dtype(), kDTypeOfVariables,
                    shape, "a row of its variable for each index");
      int64_t* clock = nullptr;
      if (clocks) {
        checker.Check((*clocks)[i], "clocks", i, /*written=*/true, py::dtype::of<int64_t>(), "",
                      {rows + 1}, "a count for each row of its variable and one for all");
        clock = static_cast<int64_t*>(Data((*clocks)[i]));
      }
      updates.push_back({Data(vars[i]), Data(accums[i]), Data(accum_updates[i]), Data(grads[i]),
                         Data(indices[i]), clock, rows, row_elements,
                         static_cast<int64_t>(indices[i].size())});
    }
    checker.CheckOverlap();
    if (const std::optional<BadIndex> bad = FindBadIndex(index_type, updates)) {
      throw py::index_error("indices[" + std::to_string(bad->variable) + "][" +
                            std::to_string(bad->position) + "] is " + std::to_string(bad->index) +
                            ", expected 0 to " + std::to_string(updates[bad->variable].rows - 1) +
                            ", a row of variables[" + std::to_string(bad->variable) + "]");
    }
  }

  DType dtype;
  IndexType index_type = IndexType::kInt64;
  std::vector<SparseTensorUpdate> updates;
};

const InstructionSet& FindInstructionSet(const std::string& name) {
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (set.name == name && set.supported()) return set;
  }
  throw py::value_error("instruction_set is '" + name + "', expected one of instruction_sets()");
}

// Calls `update(workers, instruction_set)` with threads of its own.
template <typename Update>
void Run(int num_threads, const std::string& instruction_set, const Update& update) {
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
  update(workers, set);
  for (std::thread& thread : threads) thread.join();
}

void RunDense(LoopKind kind, const DenseArrays& arrays, const Hyperparameters& hyperparameters,
              int num_threads, const std::string& instruction_set) {
  Run(num_threads, instruction_set, [&](const Workers& workers, const InstructionSet& set) {
    DenseUpdate(arrays.dtype, arrays.updates, hyperparameters, workers, kind, set);
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
  using tf_adadelta::LoopKind;

  m.def("fused_adadelta_apply",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, double learning_rate, double rho, double epsilon,
           int num_threads, const std::string& instruction_set) {
          tf_adadelta::RunDense(LoopKind::kAdadelta, {variables, accums, accum_updates, grads},
                                {learning_rate, rho, epsilon}, num_threads, instruction_set);
        });
  m.def("copy_streams",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, int num_threads, const std::string& instruction_set) {
          tf_adadelta::RunDense(LoopKind::kCopy, {variables, accums, accum_updates, grads}, {},
                                num_threads, instruction_set);
        });
  m.def("fused_adadelta_sparse_apply",
        [](const ArrayList& variables, const ArrayList& accums, const ArrayList& accum_updates,
           const ArrayList& grads, const ArrayList& indices, const std::optional<ArrayList>& clocks,
           double learning_rate, double rho, double epsilon, int num_threads,
           const std::string& instruction_set) {
          const tf_adadelta::SparseArrays arrays(variables, accums, accum_updates, grads, indices,
                                                 clocks);
          tf_adadelta::Run(
              num_threads, instruction_set,
              [&](const tf_adadelta::Workers& workers, const tf_adadelta::InstructionSet& set) {
                tf_adadelta::SparseUpdate(arrays.dtype, arrays.index_type, arrays.updates,
                                          {learning_rate, rho, epsilon}, workers, set);
              });
        });
  m.def("instruction_sets", &tf_adadelta::SupportedInstructionSets);
  m.def("partition", &tf_adadelta::Pieces);
}
