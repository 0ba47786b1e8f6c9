// Where the inputs of the ops stand, and what error messages call them.
#ifndef TF_ADADELTA_TENSORFLOW_INPUTS_H_
#define TF_ADADELTA_TENSORFLOW_INPUTS_H_

#include <string>

#include "absl/strings/str_cat.h"

namespace tf_adadelta {

// The inputs are lists, one after the other, and then the scalars. The resources come first.
class Inputs {
 public:
  static constexpr int kNumScalars = 3;

  // vars, accums, accum_updates, grads.
  static Inputs Dense(int num_variables) { return Inputs(num_variables, false, false); }

  // vars, accums, accum_updates, clocks (if any), grads, indices.
  static Inputs Sparse(int num_variables, bool clocks) {
    return Inputs(num_variables, clocks, true);
  }

  int num_variables() const { return n_; }
  int num_resources() const { return grad(0); }
  int size() const { return learning_rate() + kNumScalars; }
  bool has_clocks() const { return clocks_; }
  bool has_indices() const { return indices_; }

  int var(int i) const { return i; }
  int accum(int i) const { return n_ + i; }
  int accum_update(int i) const { return 2 * n_ + i; }
  int clock(int i) const { return 3 * n_ + i; }
  int grad(int i) const { return (clocks_ ? 4 : 3) * n_ + i; }
  int indices(int i) const { return grad(n_) + i; }
  int learning_rate() const { return grad(indices_ ? 2 * n_ : n_); }
  int rho() const { return learning_rate() + 1; }
  int epsilon() const { return learning_rate() + 2; }

  bool IsClock(int input) const { return clocks_ && input >= clock(0) && input < grad(0); }

  // Such as "accums[2]" or "learning_rate".
  std::string Describe(int input) const {
    if (input >= learning_rate()) {
      static constexpr const char* kScalars[kNumScalars] = {"learning_rate", "rho", "epsilon"};
      return kScalars[input - learning_rate()];
    }
    static constexpr const char* kLists[] = {"variables", "accums", "accum_updates",
                                             "clocks",    "grads",  "indices"};
    const int list = input / n_;
    return absl::StrCat(kLists[list >= 3 && !clocks_ ? list + 1 : list], "[", input % n_, "]");
  }

 private:
  Inputs(int num_variables, bool clocks, bool indices)
      : n_(num_variables), clocks_(clocks), indices_(indices) {}

  int n_;
  bool clocks_;
  bool indices_;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_INPUTS_H_
