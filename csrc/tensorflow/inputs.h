// Where the inputs of the ops stand, and what error messages call them.
#ifndef TF_ADADELTA_TENSORFLOW_INPUTS_H_
#define TF_ADADELTA_TENSORFLOW_INPUTS_H_

#include <array>
#include <string>

#include "absl/strings/str_cat.h"
#include "storage.h"

namespace tf_adadelta {

// The inputs are lists, one after the other. The resources come first, the scalars (and with them
// the vectors) last.
class Inputs {
 public:
  enum List {
    kVars,
    kAccums,
    kAccumUpdates,
    kClocks,
    kAverages,
    kGradAccums,
    kGrads,
    kIndices,
    kLearningRate,
    kRho,
    kEpsilon,
    kGradScale,
    kUpdate,
    kClipFactors,
    kClipvalue,
    kWeightDecay,
    kEmaMomentum,
    kStep,
    kRandomSeeds,
    kNumLists
  };

  using Sizes = std::array<int, kNumLists>;

  // Which lists FusedAdadeltaApply has that may be missing.
  struct Optional {
    bool averages;
    bool grad_accums;
    bool options;
    bool random;
  };

  static Inputs Dense(int num_variables, const Optional& has) {
    const int n = num_variables;
    const int option = has.options ? 1 : 0;
    const int random = has.random ? 1 : 0;
    return Inputs({n, n, n, 0, has.averages ? n : 0, has.grad_accums ? n : 0, n, 0, 1, 1, 1, option,
                   option, option, option, option, option, random, random});
  }

  static Inputs Sparse(int num_variables, bool clocks, bool has_random) {
    const int n = num_variables;
    const int random = has_random ? 1 : 0;
    return Inputs({n, n, n, clocks ? n : 0, 0, 0, n, n, 1, 1, 1, 0, 0, 0, 0, 0, 0, random, random});
  }

  static Inputs Norms(int num_gradients, bool grad_accums) {
    const int n = num_gradients;
    return Inputs({0, 0, 0, 0, 0, grad_accums ? n : 0, n, 0, 0, 0, 0, 1, 1});
  }

  // From the numbers of elements of all lists.
  explicit Inputs(const Sizes& sizes) : sizes_(sizes) {
    for (int list = 0; list < kNumLists; ++list) first_[list + 1] = first_[list] + sizes[list];
  }

  const Sizes& sizes() const { return sizes_; }

  // The number of variables, or of gradients where there are no variables.
  int num_variables() const { return sizes_[kGrads]; }
  int num_resources() const { return at(kGrads); }
  int size() const { return at(kNumLists); }
  // Whether the accumulators are in blocks (block_codes.h).
  bool has_blocks() const { return has_blocks_; }
  void set_has_blocks(bool has_blocks) { has_blocks_ = has_blocks; }
  static bool IsState(List list) { return list == kAccums || list == kAccumUpdates; }
  // Whether a list is one tensor with an element for each variable.
  static bool IsVector(List list) { return list == kClipFactors || list == kRandomSeeds; }
  bool has(List list) const { return sizes_[list] > 0; }
  int at(List list, int i = 0) const { return first_[list] + i; }

  // The list that an input is in.
  List ListOf(int input) const {
    int list = 0;
    while (input >= first_[list + 1]) ++list;
    return static_cast<List>(list);
  }

  // Such as "accums[2]" or "learning_rate".
  std::string Describe(int input) const {
    static constexpr const char* kNames[kNumLists] = {
        "variables",    "accums",       "accum_updates", "clocks",        "averages",
        "grad_accums",  "grads",        "indices",       "learning_rate", "rho",
        "epsilon",      "grad_scale",   "update",        "clip_factors",  "clipvalue",
        "weight_decay", "ema_momentum", "step",          "random_seeds"};
    const List list = ListOf(input);
    if (list >= kLearningRate) return kNames[list];
    return absl::StrCat(kNames[list], "[", input - first_[list], "]");
  }

 private:
  Sizes sizes_;
  std::array<int, kNumLists + 1> first_ = {};
  bool has_blocks_ = false;
};

// How variables with gradients of `dtype` are stored.
inline DType StorageOf(DType dtype, const Inputs& inputs) {
  if (!inputs.has(Inputs::kRandomSeeds)) return dtype;
  if (inputs.has_blocks()) return DType::kFloatUInt8State;
  return dtype == DType::kFloat ? DType::kFloatBFloat16State : DType::kStochasticBFloat16;
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_INPUTS_H_
