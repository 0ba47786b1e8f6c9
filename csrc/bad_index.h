// What is said of an index of a sparse gradient that is out of range, on the CPU and on the GPU.
#ifndef TF_ADADELTA_BAD_INDEX_H_
#define TF_ADADELTA_BAD_INDEX_H_

#include <cstddef>
#include <cstdint>
#include <string>

namespace tf_adadelta {

// An index that no row of its variable has.
struct BadIndex {
  // Such as "indices[1][7] is 50, expected 0 to 49, a row of variables[1]".
  std::string Describe() const {
    const std::string which = "[" + std::to_string(variable) + "]";
    return "indices" + which + "[" + std::to_string(position) + "] is " + std::to_string(index) +
           ", expected 0 to " + std::to_string(rows - 1) + ", a row of variables" + which;
  }

  size_t variable;
  int64_t position;
  int64_t index;
  int64_t rows;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_BAD_INDEX_H_
