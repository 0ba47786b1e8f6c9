// Where the inputs of FusedAdadeltaApply stand, and what error messages call them.
#ifndef TF_ADADELTA_TENSORFLOW_DENSE_INPUTS_H_
#define TF_ADADELTA_TENSORFLOW_DENSE_INPUTS_H_

#include <string>

#include "absl/strings/str_cat.h"

namespace tf_adadelta {

class DenseInputs {
 public:
  explicit DenseInputs(int num_variables) : n_(num_variables) {}

  int num_variables() const { return n_; }
  int num_resources() const { return 3 * n_; }
  int size() const { return 4 * n_ + 3; }

  int var(int i) const { return i; }
  int accum(int i) const { return n_ + i; }
  int accum_update(int i) const { return 2 * n_ + i; }
  int grad(int i) const { return 3 * n_ + i; }
  int learning_rate() const { return 4 * n_; }
  int rho() const { return 4 * n_ + 1; }
  int epsilon() const { return 4 * n_ + 2; }

  // Such as "accums[2]" or "learning_rate".
  std::string Describe(int input) const {
    if (input >= learning_rate()) {
      static constexpr const char* kScalars[] = {"learning_rate", "rho", "epsilon"};
      return kScalars[input - learning_rate()];
    }
    static constexpr const char* kLists[] = {"variables", "accums", "accum_updates", "grads"};
    return absl::StrCat(kLists[input / n_], "[", input % n_, "]");
  }

 private:
  const int n_;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_DENSE_INPUTS_H_
