#include "python/arrays.h"

#include <algorithm>
#include <utility>

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

// Such as "(3, 2)" or "(5,)".
std::string ShapeOf(const ArrayView& array) {
  py::tuple shape(array.ndim);
  for (int64_t i = 0; i < array.ndim; ++i) shape[i] = array.shape[i];
  return py::str(shape);
}

class NumpyViews {
 public:
  std::vector<ArrayView> operator()(const std::vector<py::array>& arrays) {
    std::vector<ArrayView> views;
    views.reserve(arrays.size());
    for (const py::array& array : arrays) {
      views.push_back({const_cast<void*>(array.data()), NameOf(array.dtype()),
                       static_cast<int64_t>(array.itemsize()), array.shape(),
                       static_cast<int64_t>(array.ndim()),
                       (array.flags() & py::array::c_style) != 0, array.writeable()});
    }
    return views;
  }

 private:
  // To ask NumPy for a name takes longer than everything else about an array.
  const std::string& NameOf(const py::dtype& dtype) {
    if (!dtype.is(dtype_)) {
      dtype_ = dtype;
      name_ = py::str(dtype);
    }
    return name_;
  }

  py::object dtype_;
  std::string name_;
};

}  // namespace

int64_t ArrayView::size() const {
  int64_t size = 1;
  for (int64_t i = 0; i < ndim; ++i) size *= shape[i];
  return size;
}

Arrays Arrays::OfNumpy(const std::vector<py::array>& vars, const std::vector<py::array>& accums,
                       const std::vector<py::array>& accum_updates,
                       const std::vector<py::array>& grads) {
  NumpyViews views;
  return Arrays(views(vars), views(accums), views(accum_updates), views(grads));
}

Arrays::Arrays(const std::vector<ArrayView>& vars, const std::vector<ArrayView>& accums,
               const std::vector<ArrayView>& accum_updates, const std::vector<ArrayView>& grads) {
  const std::vector<std::pair<const char*, const std::vector<ArrayView>*>> lists = {
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
      Check((*list)[i], vars[i], vars[0].dtype, {name, i, /*written=*/list != &grads});
    }
    updates_.push_back(
        {vars[i].data, accums[i].data, accum_updates[i].data, grads[i].data, vars[i].size()});
  }
  CheckOverlap();
}

void Arrays::Check(const ArrayView& array, const ArrayView& var, const std::string& dtype,
                   const Position& position) {
  if (array.dtype != dtype) {
    throw py::type_error(position.Describe() + " has dtype " + array.dtype + ", expected " + dtype +
                         ", the dtype of variables[0]");
  }
  if (!std::equal(array.shape, array.shape + array.ndim, var.shape, var.shape + var.ndim)) {
    throw py::value_error(position.Describe() + " has shape " + ShapeOf(array) + ", expected " +
                          ShapeOf(var) + ", the shape of its variable");
  }
  if (!array.contiguous) {
    throw py::value_error(position.Describe() + " is not C-contiguous");
  }
  const auto begin = reinterpret_cast<uintptr_t>(array.data);
  if (begin % array.itemsize != 0) {
    throw py::value_error(position.Describe() + " is not aligned to its dtype");
  }
  if (position.written && !array.writable) {
    throw py::value_error(position.Describe() + " is read-only");
  }
  if (array.size() > 0) {
    extents_.push_back(
        {begin, begin + static_cast<uintptr_t>(array.size() * array.itemsize), position});
  }
}

// An array that is written may share memory with no other one. Sorted by where they begin, each
// need only be compared with what reaches furthest among those before it.
void Arrays::CheckOverlap() {
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

}  // namespace tf_adadelta
