#include "python/arrays.h"

#include <algorithm>
#include <utility>

#include "block_codes.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

DType ToDType(const ArrayView& array, const std::string& what) {
  if (array.dtype == "float16") return DType::kHalf;
  if (array.dtype == "bfloat16") return DType::kBFloat16;
  if (array.dtype == "float32") return DType::kFloat;
  if (array.dtype == "float64") return DType::kDouble;
  throw py::type_error(what + " has dtype " + array.dtype +
                       ", expected float16, bfloat16, float32 or float64");
}

IndexType ToIndexType(const ArrayView& array) {
  if (array.dtype == "int32") return IndexType::kInt32;
  if (array.dtype == "int64") return IndexType::kInt64;
  throw py::type_error("indices[0] has dtype " + array.dtype + ", expected int32 or int64");
}

using Shape = std::vector<int64_t>;

Shape ShapeOf(const ArrayView& array) { return {array.shape, array.shape + array.ndim}; }

// Such as "(3, 2)" or "(5,)".
std::string Text(const Shape& shape) {
  py::tuple tuple(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) tuple[i] = shape[i];
  return py::str(tuple);
}

// Checks the arrays of a call one by one, and then that none is written which another one shares.
class Checker {
 public:
  struct Expected {
    std::string dtype;
    const char* dtype_of;
    Shape shape;
    const char* shape_of;
  };

  static void CheckLength(const char* list, size_t length, size_t expected) {
    if (length != expected) {
      throw py::value_error(std::string(list) + " has " + std::to_string(length) +
                            " arrays, expected " + std::to_string(expected) +
                            ", one for each variable");
    }
  }

  // `i` is nothing for an array that is in no list.
  void Check(const ArrayView& array, const char* list, std::optional<size_t> i, bool written,
             const Expected& expected) {
    const Position position = {list, i, written};
    if (array.dtype != expected.dtype) {
      throw py::type_error(position.Describe() + " has dtype " + array.dtype + ", expected " +
                           expected.dtype + expected.dtype_of);
    }
    const Shape shape = ShapeOf(array);
    if (shape != expected.shape) {
      throw py::value_error(position.Describe() + " has shape " + Text(shape) + ", expected " +
                            Text(expected.shape) + ", " + expected.shape_of);
    }
    if (!array.contiguous) {
      throw py::value_error(position.Describe() + " is not C-contiguous");
    }
    const auto begin = reinterpret_cast<uintptr_t>(array.data);
    if (begin % array.itemsize != 0) {
      throw py::value_error(position.Describe() + " is not aligned to its dtype");
    }
    if (written && !array.writable) {
      throw py::value_error(position.Describe() + " is read-only");
    }
    if (array.size() > 0) {
      extents_.push_back(
          {begin, begin + static_cast<uintptr_t>(array.size() * array.itemsize), position});
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
    std::string Describe() const {
      return i ? std::string(list) + "[" + std::to_string(*i) + "]" : list;
    }

    const char* list;
    std::optional<size_t> i;
    bool written;
  };

  struct Extent {
    uintptr_t begin;
    uintptr_t end;
    Position position;
  };

  std::vector<Extent> extents_;
};

Checker::Expected OneForEach(size_t count, const char* what) {
  return {"float64", "", {static_cast<int64_t>(count)}, what};
}

constexpr char kLikeVariables[] = ", the dtype of variables[0]";

// Whether the accumulators have another dtype than their variable.
bool HasStateOfItsOwn(DType dtype) {
  return dtype == DType::kFloatBFloat16State || dtype == DType::kFloatUInt8State;
}

// The shape of what is stored in blocks for a variable.
Shape ShapeOfBlocks(const ArrayView& var) {
  const int64_t rows = var.ndim > 0 ? var.shape[0] : 1;
  return {rows, BytesOfRow(RowElements(rows, var.size()))};
}

// Checks the variables of a call with their averages; returns their dtype.
DType CheckVariables(Checker* checker, const ViewList& vars, const ViewList& accums,
                     const ViewList& accum_updates) {
  checker->CheckLength("accums", accums.size(), vars.size());
  checker->CheckLength("accum_updates", accum_updates.size(), vars.size());
  if (vars.empty()) return DType::kFloat;
  DType dtype = ToDType(vars[0], "variables[0]");
  std::string state = vars[0].dtype;
  if (dtype == DType::kFloat && accums[0].dtype == "bfloat16") dtype = DType::kFloatBFloat16State;
  if (dtype == DType::kFloat && accums[0].dtype == "uint8") dtype = DType::kFloatUInt8State;
  if (HasStateOfItsOwn(dtype)) state = accums[0].dtype;
  for (size_t i = 0; i < vars.size(); ++i) {
    const Checker::Expected expected = {vars[0].dtype, kLikeVariables, ShapeOf(vars[i]),
                                        "the shape of its variable"};
    checker->Check(vars[i], "variables", i, /*written=*/true, expected);
    Checker::Expected of_state = expected;
    of_state.dtype = state;
    if (state != expected.dtype) of_state.dtype_of = ", the dtype of accums[0]";
    if (dtype == DType::kFloatUInt8State) {
      of_state.shape = ShapeOfBlocks(vars[i]);
      of_state.shape_of = "rows of blocks for those of its variable";
    }
    checker->Check(accums[i], "accums", i, /*written=*/true, of_state);
    checker->Check(accum_updates[i], "accum_updates", i, /*written=*/true, of_state);
  }
  return dtype;
}

template <typename Update>
void SetRandomSeeds(const std::optional<std::vector<int64_t>>& seeds, std::vector<Update>* updates,
                    DType* dtype) {
  if (!seeds) {
    if (!HasStateOfItsOwn(*dtype)) return;
    const std::string state = *dtype == DType::kFloatUInt8State ? "uint8" : "bfloat16";
    throw py::type_error("accums[0] has dtype " + state +
                         ", expected float32, the dtype of variables[0], where there are no "
                         "random_seeds");
  }
  if (seeds->size() != updates->size()) {
    throw py::value_error("random_seeds has length " + std::to_string(seeds->size()) +
                          ", expected " + std::to_string(updates->size()) +
                          ", one for each variable");
  }
  if (updates->empty()) return;
  if (*dtype == DType::kBFloat16) *dtype = DType::kStochasticBFloat16;
  if (*dtype != DType::kStochasticBFloat16 && !HasStateOfItsOwn(*dtype)) {
    throw py::type_error(
        "accums[0] is neither bfloat16 nor uint8, as expected where there are random_seeds: only "
        "those are rounded stochastically");
  }
  *updates = WithSeeds(std::move(*updates), seeds->data());
}

// The names of the dtypes of nearly all arrays; null of others.
const char* KnownName(const py::dtype& dtype) {
  if (dtype.byteorder() != '=') return nullptr;
  switch (dtype.char_()) {
    case 'e':
      return "float16";
    case 'f':
      return "float32";
    case 'd':
      return "float64";
    case 'i':
      return "int32";
    case 'l':
      return "int64";
    default:
      return nullptr;
  }
}

}  // namespace

int64_t ArrayView::size() const {
  int64_t size = 1;
  for (int64_t i = 0; i < ndim; ++i) size *= shape[i];
  return size;
}

void CheckSize(const ArrayView& array, const std::string& what) {
  const Shape shape = ShapeOf(array);
  int64_t bytes = std::max<int64_t>(array.itemsize, 1);
  const bool fits = std::all_of(shape.begin(), shape.end(), [&](int64_t size) {
    // Of an empty array too, so that the product of some of the sizes can be taken.
    return size >= 0 && (size == 0 || !__builtin_mul_overflow(bytes, size, &bytes));
  });
  if (!fits) {
    throw py::value_error(what + " has shape " + Text(shape) +
                          ", expected sizes of 0 or more and less than 2^63 bytes");
  }
}

ViewList NumpyViews::operator()(const std::vector<py::array>& arrays) {
  ViewList views;
  views.reserve(arrays.size());
  for (const py::array& array : arrays) {
    views.push_back({const_cast<void*>(array.data()), NameOf(array.dtype()),
                     static_cast<int64_t>(array.itemsize()), array.shape(),
                     static_cast<int64_t>(array.ndim()), (array.flags() & py::array::c_style) != 0,
                     array.writeable()});
  }
  return views;
}

const std::string& NumpyViews::NameOf(const py::dtype& dtype) {
  if (!dtype.is(dtype_)) {
    dtype_ = dtype;
    const char* const known = KnownName(dtype);
    // As a handle: to the str() of pybind11 2.13 a dtype could be two things.
    name_ = known != nullptr ? known : py::str(static_cast<const py::handle&>(dtype));
  }
  return name_;
}

DenseArrays::DenseArrays(const ViewList& vars, const ViewList& accums,
                         const ViewList& accum_updates, const ViewList& grads,
                         const std::optional<ViewList>& averages,
                         const std::optional<ViewList>& grad_accums,
                         const std::optional<ArrayView>& clip_factors) {
  Checker checker;
  dtype = CheckVariables(&checker, vars, accums, accum_updates);
  checker.CheckLength("grads", grads.size(), vars.size());
  if (averages) checker.CheckLength("averages", averages->size(), vars.size());
  if (grad_accums) checker.CheckLength("grad_accums", grad_accums->size(), vars.size());
  updates.reserve(vars.size());
  for (size_t i = 0; i < vars.size(); ++i) {
    const Checker::Expected expected = {vars[0].dtype, kLikeVariables, ShapeOf(vars[i]),
                                        "the shape of its variable"};
    checker.Check(grads[i], "grads", i, /*written=*/false, expected);
    const auto check_written = [&](const std::optional<ViewList>& list, const char* name) {
      if (!list) return static_cast<void*>(nullptr);
      checker.Check((*list)[i], name, i, /*written=*/true, expected);
      return (*list)[i].data;
    };
    void* const average = check_written(averages, "averages");
    void* const grad_accum = check_written(grad_accums, "grad_accums");
    updates.push_back({vars[i].data, accums[i].data, accum_updates[i].data, grads[i].data,
                       vars[i].size(), average, grad_accum});
    updates.back().row_elements =
        RowElements(vars[i].ndim > 0 ? vars[i].shape[0] : 1, vars[i].size());
  }
  if (clip_factors) {
    checker.Check(*clip_factors, "clip_factors", std::nullopt, /*written=*/false,
                  OneForEach(vars.size(), "one for each variable"));
  }
  checker.CheckOverlap();
}

void DenseArrays::RoundAtRandom(const std::optional<std::vector<int64_t>>& seeds) {
  SetRandomSeeds(seeds, &updates, &dtype);
}

NormArrays::NormArrays(const ViewList& grads, const std::optional<ViewList>& grad_accums,
                       const std::optional<ArrayView>& out) {
  Checker checker;
  if (grad_accums) checker.CheckLength("grad_accums", grad_accums->size(), grads.size());
  if (out) {
    checker.Check(*out, "out", std::nullopt, /*written=*/true,
                  OneForEach(grads.size(), "one for each gradient"));
  }
  if (grads.empty()) return;
  dtype = ToDType(grads[0], "grads[0]");
  inputs.reserve(grads.size());
  for (size_t i = 0; i < grads.size(); ++i) {
    const Checker::Expected expected = {grads[0].dtype, ", the dtype of grads[0]",
                                        ShapeOf(grads[i]), "the shape of its gradient"};
    checker.Check(grads[i], "grads", i, /*written=*/false, expected);
    if (grad_accums) {
      checker.Check((*grad_accums)[i], "grad_accums", i, /*written=*/false, expected);
    }
    inputs.push_back(
        {grads[i].data, grad_accums ? (*grad_accums)[i].data : nullptr, grads[i].size()});
  }
  checker.CheckOverlap();
}

SparseArrays::SparseArrays(const ViewList& vars, const ViewList& accums,
                           const ViewList& accum_updates, const ViewList& grads,
                           const ViewList& indices, const std::optional<ViewList>& clocks) {
  Checker checker;
  dtype = CheckVariables(&checker, vars, accums, accum_updates);
  checker.CheckLength("grads", grads.size(), vars.size());
  checker.CheckLength("indices", indices.size(), vars.size());
  if (clocks) checker.CheckLength("clocks", clocks->size(), vars.size());
  if (vars.empty()) return;
  index_type = ToIndexType(indices[0]);
  updates.reserve(vars.size());
  for (size_t i = 0; i < vars.size(); ++i) {
    if (vars[i].ndim == 0) {
      throw py::value_error("variables[" + std::to_string(i) + "] is a scalar, which has no rows");
    }
    const int64_t rows = vars[i].shape[0];
    checker.Check(
        indices[i], "indices", i, /*written=*/false,
        {indices[0].dtype, ", the dtype of indices[0]", {indices[i].size()}, "one dimension"});
    Shape shape = ShapeOf(vars[i]);
    shape[0] = indices[i].size();
    checker.Check(
        grads[i], "grads", i, /*written=*/false,
        {vars[0].dtype, kLikeVariables, shape, "a row of its variable for each of its indices"});
    void* clock = nullptr;
    if (clocks) {
      clock = (*clocks)[i].data;
      checker.Check((*clocks)[i], "clocks", i, /*written=*/true,
                    {"int64", "", {rows + 1}, "one more than the rows of its variable"});
    }
    updates.push_back({vars[i].data, accums[i].data, accum_updates[i].data, grads[i].data,
                       indices[i].data, static_cast<int64_t*>(clock), rows,
                       RowElements(rows, vars[i].size()), indices[i].size()});
  }
  checker.CheckOverlap();
}

void SparseArrays::RoundAtRandom(const std::optional<std::vector<int64_t>>& seeds) {
  SetRandomSeeds(seeds, &updates, &dtype);
}

}  // namespace tf_adadelta
