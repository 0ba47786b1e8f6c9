// What a build without CUDA answers.
#include "cuda/dense.h"
#include "cuda/driver_version.h"
#include "cuda/memory.h"
#include "cuda/norms.h"
#include "cuda/sparse.h"

namespace tf_adadelta::cuda {
namespace {

constexpr char kMissing[] =
    "tf_adadelta was built without CUDA; `python -m tf_adadelta` says why and how to rebuild it";

}  // namespace

int DriverVersion() { return 0; }

std::string DenseUpdate(DType, const std::vector<TensorUpdate>&, const DeviceHyperparameters&,
                        const DeviceOptions*, const Stream&) {
  return kMissing;
}

std::string LoadDenseKernels(DType, bool, bool, bool) { return kMissing; }

std::string SquaredNorms(DType, const std::vector<NormInput>&, const Scalar&, const Scalar&,
                         double*, const Allocate&, const Stream&) {
  return kMissing;
}

std::string SparseUpdate(DType, IndexType, const std::vector<SparseTensorUpdate>&,
                         const DeviceHyperparameters&, const Allocate&, const Stream&) {
  return kMissing;
}

bool IndicesAreChecked() { return false; }

std::string FindBadIndex(IndexType, const std::vector<SparseTensorUpdate>&, const Allocate&,
                         const Stream&, std::optional<BadIndex>*) {
  return kMissing;
}

void* StreamMemory::Allocate(size_t) { return nullptr; }

void StreamMemory::Free() {}

StreamMemory::~StreamMemory() = default;

std::string Copy(void*, const void*, size_t, const Stream&) { return kMissing; }

}  // namespace tf_adadelta::cuda
