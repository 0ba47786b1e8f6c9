#include "python/cuda.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "bad_index.h"
#include "cuda/dense.h"
#include "cuda/sparse.h"
#include "python/arrays.h"
#include "python/dlpack.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

using Capsules = std::vector<py::object>;

// Whatever a call keeps of its arrays until the update is queued.
class DeviceArrays {
 public:
  std::vector<ArrayView> Take(const Capsules& capsules, const char* name) {
    std::vector<ArrayView> views;
    views.reserve(capsules.size());
    for (size_t i = 0; i < capsules.size(); ++i) {
      views.push_back(Take(capsules[i], std::string(name) + "[" + std::to_string(i) + "]"));
    }
    return views;
  }

  // A number, or a scalar in the memory of the device.
  cuda::Scalar TakeScalar(const py::object& value, const std::string& name) {
    if (py::isinstance<py::float_>(value)) return {nullptr, value.cast<double>()};
    const ArrayView view = Take(value, name);
    if (view.dtype != "float64") {
      throw py::type_error(name + " has dtype " + view.dtype + ", expected float64");
    }
    if (view.ndim != 0) {
      throw py::value_error(name + " has " + std::to_string(view.ndim) +
                            " dimensions, expected a scalar");
    }
    if (reinterpret_cast<uintptr_t>(view.data) % sizeof(double) != 0) {
      throw py::value_error(name + " is not aligned to its dtype");
    }
    return {static_cast<const double*>(view.data), 0.0};
  }

  int device() const { return device_; }

 private:
  ArrayView Take(const py::object& capsule, const std::string& what) {
    arrays_.emplace_back(capsule, what);
    const dlpack::Device& device = arrays_.back().device();
    const bool cuda = device.type == dlpack::kCuda || device.type == dlpack::kCudaManaged;
    if (device_ == cuda::Stream::kCurrentDevice) device_ = device.id;
    if (!cuda || device.id != device_) {
      throw py::value_error(what + " is on device " + std::to_string(device.id) +
                            " of DLPack's type " + std::to_string(device.type) +
                            ", expected CUDA device " + std::to_string(device_));
    }
    return arrays_.back().view();
  }

  std::vector<DlpackArray> arrays_;
  int device_ = cuda::Stream::kCurrentDevice;
};

void Apply(const Capsules& variables, const Capsules& accums, const Capsules& accum_updates,
           const Capsules& grads, const py::object& learning_rate, const py::object& rho,
           const py::object& epsilon, uintptr_t stream) {
  DeviceArrays taken;
  const DenseArrays arrays(taken.Take(variables, "variables"), taken.Take(accums, "accums"),
                           taken.Take(accum_updates, "accum_updates"), taken.Take(grads, "grads"));
  const cuda::DeviceHyperparameters hyperparameters = {
      taken.TakeScalar(learning_rate, "learning_rate"), taken.TakeScalar(rho, "rho"),
      taken.TakeScalar(epsilon, "epsilon")};
  std::string error;
  {
    const py::gil_scoped_release release;  // The driver waits where its queue is full.
    error = cuda::DenseUpdate(arrays.dtype, arrays.updates, hyperparameters,
                              {reinterpret_cast<void*>(stream), taken.device()});
  }
  if (!error.empty()) throw std::runtime_error(error);
}

void SparseApply(const Capsules& variables, const Capsules& accums, const Capsules& accum_updates,
                 const Capsules& grads, const Capsules& indices,
                 const std::optional<Capsules>& clocks, const py::object& learning_rate,
                 const py::object& rho, const py::object& epsilon, uintptr_t stream) {
  DeviceArrays taken;
  const SparseArrays arrays(
      taken.Take(variables, "variables"), taken.Take(accums, "accums"),
      taken.Take(accum_updates, "accum_updates"), taken.Take(grads, "grads"),
      taken.Take(indices, "indices"),
      clocks ? std::make_optional(taken.Take(*clocks, "clocks")) : std::nullopt);
  const cuda::DeviceHyperparameters hyperparameters = {
      taken.TakeScalar(learning_rate, "learning_rate"), taken.TakeScalar(rho, "rho"),
      taken.TakeScalar(epsilon, "epsilon")};
  const cuda::Stream cuda_stream = {reinterpret_cast<void*>(stream), taken.device()};
  std::string error;
  std::optional<BadIndex> bad;
  {
    const py::gil_scoped_release release;
    cuda::StreamMemory memory(cuda_stream);
    const auto allocate = [&](size_t bytes) { return memory.Allocate(bytes); };
    if (cuda::IndicesAreChecked()) {
      error = cuda::FindBadIndex(arrays.index_type, arrays.updates, allocate, cuda_stream, &bad);
    }
    if (error.empty() && !bad) {
      error = cuda::SparseUpdate(arrays.dtype, arrays.index_type, arrays.updates, hyperparameters,
                                 allocate, cuda_stream);
    }
  }
  if (bad) throw py::index_error(bad->Describe());
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace

void DefineCudaFunctions(py::module_& module) {
  module.def("fused_adadelta_apply_on_device", &Apply);
  module.def("fused_adadelta_sparse_apply_on_device", &SparseApply);
}

}  // namespace tf_adadelta
