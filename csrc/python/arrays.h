// The arrays of a call, whatever library they are of, checked as they are gathered.
#ifndef TF_ADADELTA_PYTHON_ARRAYS_H_
#define TF_ADADELTA_PYTHON_ARRAYS_H_

#include <pybind11/numpy.h>

#include <cstdint>
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

// The four lists of a call. The constructor throws a Python TypeError or ValueError unless the
// lists fit together and every array can be updated in place.
class Arrays {
 public:
  Arrays(const std::vector<ArrayView>& vars, const std::vector<ArrayView>& accums,
         const std::vector<ArrayView>& accum_updates, const std::vector<ArrayView>& grads);

  static Arrays OfNumpy(const std::vector<pybind11::array>& vars,
                        const std::vector<pybind11::array>& accums,
                        const std::vector<pybind11::array>& accum_updates,
                        const std::vector<pybind11::array>& grads);

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

  void Check(const ArrayView& array, const ArrayView& var, const std::string& dtype,
             const Position& position);
  void CheckOverlap();

  DType dtype_ = DType::kFloat;
  std::vector<TensorUpdate> updates_;
  std::vector<Extent> extents_;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PYTHON_ARRAYS_H_
