// The arrays of a call, whatever library they are of, checked as they are gathered.
#ifndef TF_ADADELTA_PYTHON_ARRAYS_H_
#define TF_ADADELTA_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tensor_update.h"

namespace tf_adadelta {

// What must be known of an array, which must outlive this.
struct ArrayView {
  int64_t size() const;

  void* data;
  std::string dtype;  // As NumPy names it, such as "float32".
  int64_t itemsize;
  const int64_t* shape;
  int64_t ndim;
  bool contiguous;  // In row-major order.
  bool writable;
};

using ViewList = std::vector<ArrayView>;

// Throws a Python ValueError for an array whose sizes cannot be multiplied, as NumPy has none but
// another library may say. `what` is how a message names the array.
void CheckSize(const ArrayView& array, const std::string& what);

// Makes views of NumPy arrays.
class NumpyViews {
 public:
  ViewList operator()(const std::vector<pybind11::array>& arrays);

 private:
  // To ask NumPy for a name takes longer than everything else about an array.
  const std::string& NameOf(const pybind11::dtype& dtype);

  pybind11::object dtype_;
  std::string name_;
};

// The lists of a call with dense gradients. The constructor throws a Python TypeError or ValueError
// unless the lists fit together and every array can be updated in place.
struct DenseArrays {
  DenseArrays(const ViewList& vars, const ViewList& accums, const ViewList& accum_updates,
              const ViewList& grads, const std::optional<ViewList>& averages = std::nullopt,
              const std::optional<ViewList>& grad_accums = std::nullopt,
              const std::optional<ArrayView>& clip_factors = std::nullopt);

  // Throws like the constructor unless there is a seed for each variable, and these or their
  // accumulators are bfloat16. Called for a call without seeds too, which only equal types may do
  // without.
  void RoundAtRandom(const std::optional<std::vector<int64_t>>& seeds);

  DType dtype;
  std::vector<TensorUpdate> updates;
};

// The lists of a call that asks for norms, likewise, and the array `out` that they are written to.
struct NormArrays {
  NormArrays(const ViewList& grads, const std::optional<ViewList>& grad_accums,
             const std::optional<ArrayView>& out = std::nullopt);

  DType dtype = DType::kFloat;
  std::vector<NormInput> inputs;
};

// The lists of a call with sparse gradients, likewise. Without `clocks` those of the updates are
// null. The indices themselves are not looked at.
struct SparseArrays {
  SparseArrays(const ViewList& vars, const ViewList& accums, const ViewList& accum_updates,
               const ViewList& grads, const ViewList& indices,
               const std::optional<ViewList>& clocks);

  void RoundAtRandom(const std::optional<std::vector<int64_t>>& seeds);

  DType dtype;
  IndexType index_type = IndexType::kInt64;
  std::vector<SparseTensorUpdate> updates;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PYTHON_ARRAYS_H_
