// What a build without CUDA answers.
#include "cuda/dense.h"

namespace tf_adadelta::cuda {
namespace {

constexpr char kMissing[] =
    "tf_adadelta was built without CUDA; `python -m tf_adadelta` says why and how to rebuild it";

}  // namespace

std::string DenseUpdate(DType, const std::vector<TensorUpdate>&, const DeviceHyperparameters&,
                        const Stream&) {
  return kMissing;
}

std::string Copy(void*, const void*, size_t, const Stream&) { return kMissing; }

}  // namespace tf_adadelta::cuda
