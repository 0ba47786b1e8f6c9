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
#include "cuda/driver_version.h"
#include "cuda/memory.h"
#include "cuda/norms.h"
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

  std::optional<std::vector<ArrayView>> Take(const std::optional<Capsules>& capsules,
                                             const char* name) {
    return capsules ? std::make_optional(Take(*capsules, name)) : std::nullopt;
  }

  // A number, or a scalar in the memory of the device.
  cuda::Scalar TakeScalar(const py::object& value, const std::string& name) {
    if (py::isinstance<py::float_>(value)) return {nullptr, value.cast<double>()};
    return {static_cast<const double*>(TakeScalarOf(value, name, "float64")), 0.0};
  }

  // A count of steps: a number, or an int64 scalar in the memory of the device.
  cuda::DeviceRandom TakeStep(const py::object& value) {
    if (py::isinstance<py::int_>(value)) return {nullptr, value.cast<int64_t>()};
    return {static_cast<const int64_t*>(TakeScalarOf(value, "step", "int64")), 0};
  }

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
    const ArrayView view = arrays_.back().view();
    CheckSize(view, what);
    return view;
  }

  int device() const { return device_; }

 private:
  const void* TakeScalarOf(const py::object& value, const std::string& name, const char* dtype) {
    const ArrayView view = Take(value, name);
    if (view.dtype != dtype) {
      throw py::type_error(name + " has dtype " + view.dtype + ", expected " + dtype);
    }
    if (view.ndim != 0) {
      throw py::value_error(name + " has " + std::to_string(view.ndim) +
                            " dimensions, expected a scalar");
    }
    if (reinterpret_cast<uintptr_t>(view.data) % view.itemsize != 0) {
      throw py::value_error(name + " is not aligned to its dtype");
    }
    return view.data;
  }

  std::vector<DlpackArray> arrays_;
  int device_ = cuda::Stream::kCurrentDevice;
};

using Seeds = std::optional<std::vector<int64_t>>;

cuda::Stream StreamOf(uintptr_t handle, const DeviceArrays& arrays) {
  return {reinterpret_cast<void*>(handle), arrays.device()};
}

bool IsPlain(const std::vector<TensorUpdate>& updates, const cuda::DeviceOptions& o) {
  const cuda::Scalar scalars[] = {o.grad_scale, o.update, o.clipvalue, o.weight_decay,
                                  o.ema_momentum};
  for (const cuda::Scalar& scalar : scalars) {
    if (scalar.pointer != nullptr) return false;
  }
  return IsPlain(updates, Options{o.grad_scale.value, o.update.value != 0, o.clip_factors,
                                  o.clipvalue.value, o.weight_decay.value, o.ema_momentum.value});
}

void RunDenseOnGpu(const Capsules& variables, const Capsules& accums, const Capsules& accum_updates,
                   const Capsules& grads, const std::optional<Capsules>& averages,
                   const std::optional<Capsules>& grad_accums, const py::object& clip_factors,
                   const py::object& learning_rate, const py::object& rho,
                   const py::object& epsilon, const py::object& grad_scale,
                   const py::object& update, const py::object& clipvalue,
                   const py::object& weight_decay, const py::object& ema_momentum,
                   const py::object& step, const Seeds& random_seeds, uintptr_t stream) {
  DeviceArrays taken;
  std::optional<ArrayView> factors;
  if (!clip_factors.is_none()) factors = taken.Take(clip_factors, "clip_factors");
  DenseArrays arrays(taken.Take(variables, "variables"), taken.Take(accums, "accums"),
                     taken.Take(accum_updates, "accum_updates"), taken.Take(grads, "grads"),
                     taken.Take(averages, "averages"), taken.Take(grad_accums, "grad_accums"),
                     factors);
  arrays.RoundAtRandom(random_seeds);
  const cuda::DeviceHyperparameters hyperparameters = {
      taken.TakeScalar(learning_rate, "learning_rate"), taken.TakeScalar(rho, "rho"),
      taken.TakeScalar(epsilon, "epsilon"), taken.TakeStep(step)};
  const cuda::DeviceOptions options = {
      taken.TakeScalar(grad_scale, "grad_scale"),
      taken.TakeScalar(update, "update"),
      taken.TakeScalar(clipvalue, "clipvalue"),
      taken.TakeScalar(weight_decay, "weight_decay"),
      taken.TakeScalar(ema_momentum, "ema_momentum"),
      factors ? static_cast<const double*>(factors->data) : nullptr};
  const bool plain = IsPlain(arrays.updates, options);
  std::string error;
  {
    const py::gil_scoped_release release;  // The driver waits where its queue is full.
    error = cuda::DenseUpdate(arrays.dtype, arrays.updates, hyperparameters,
                              plain ? nullptr : &options, StreamOf(stream, taken));
  }
  if (!error.empty()) throw std::runtime_error(error);
}

void RunNormsOnGpu(const Capsules& grads, const std::optional<Capsules>& grad_accums,
                   const py::object& out, const py::object& grad_scale, const py::object& update,
                   uintptr_t stream) {
  DeviceArrays taken;
  const ArrayView squared_norms = taken.Take(out, "out");
  const NormArrays arrays(taken.Take(grads, "grads"), taken.Take(grad_accums, "grad_accums"),
                          squared_norms);
  const cuda::Scalar scale = taken.TakeScalar(grad_scale, "grad_scale");
  const cuda::Scalar asked_for = taken.TakeScalar(update, "update");
  const cuda::Stream cuda_stream = StreamOf(stream, taken);
  std::string error;
  {
    const py::gil_scoped_release release;
    cuda::StreamMemory memory(cuda_stream);
    error = cuda::SquaredNorms(
        arrays.dtype, arrays.inputs, scale, asked_for, static_cast<double*>(squared_norms.data),
        [&](size_t bytes) { return memory.Allocate(bytes); }, cuda_stream);
    memory.Free();
    if (!memory.error().empty()) error = memory.error();
  }
  if (!error.empty()) throw std::runtime_error(error);
}

void RunSparseOnGpu(const Capsules& variables, const Capsules& accums,
                    const Capsules& accum_updates, const Capsules& grads, const Capsules& indices,
                    const std::optional<Capsules>& clocks, const py::object& learning_rate,
                    const py::object& rho, const py::object& epsilon, const py::object& step,
                    const Seeds& random_seeds, uintptr_t stream) {
  DeviceArrays taken;
  SparseArrays arrays(taken.Take(variables, "variables"), taken.Take(accums, "accums"),
                      taken.Take(accum_updates, "accum_updates"), taken.Take(grads, "grads"),
                      taken.Take(indices, "indices"), taken.Take(clocks, "clocks"));
  arrays.RoundAtRandom(random_seeds);
  const cuda::DeviceHyperparameters hyperparameters = {
      taken.TakeScalar(learning_rate, "learning_rate"), taken.TakeScalar(rho, "rho"),
      taken.TakeScalar(epsilon, "epsilon"), taken.TakeStep(step)};
  const cuda::Stream cuda_stream = StreamOf(stream, taken);
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
    memory.Free();
    if (!memory.error().empty()) error = memory.error();
  }
  if (bad) throw py::index_error(bad->Describe());
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace

void DefineCudaFunctions(py::module_& module) {
  module.def("fused_adadelta_apply_on_device", &RunDenseOnGpu);
  module.def("fused_adadelta_sparse_apply_on_device", &RunSparseOnGpu);
  module.def("squared_norms_on_device", &RunNormsOnGpu);
  module.def("cuda_driver_version", &cuda::DriverVersion);
}

}  // namespace tf_adadelta
