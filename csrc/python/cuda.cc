#include "python/cuda.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda/dense.h"
#include "cuda/dense_thread.h"
#include "cuda/launch_plan.h"
#include "python/arrays.h"
#include "python/dlpack.h"

namespace tf_adadelta {
namespace {

namespace py = pybind11;

using Capsules = std::vector<py::object>;
using NumpyList = std::vector<py::array>;

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

// Runs every thread of the kernel on the host, one after the other.
template <typename Storage>
void Emulate(const DenseArrays& arrays, const cuda::DeviceHyperparameters& hyperparameters,
             int64_t max_blocks) {
  cuda::ForEachLaunch(
      arrays.updates, sizeof(Storage), hyperparameters,
      [](const auto& launch) {
        for (int32_t block = 0; block < launch.num_blocks; ++block) {
          for (int thread = 0; thread < cuda::kThreads; ++thread) {
            cuda::DenseThread<Storage>(launch, block, thread);
          }
        }
      },
      max_blocks);
}

void EmulateOnHost(const NumpyList& variables, const NumpyList& accums,
                   const NumpyList& accum_updates, const NumpyList& grads, double learning_rate,
                   double rho, double epsilon, bool by_pointer, int64_t max_blocks) {
  NumpyViews views;
  const DenseArrays arrays(views(variables), views(accums), views(accum_updates), views(grads));
  const auto scalar = [by_pointer](const double& value) {
    return by_pointer ? cuda::Scalar{&value, 0.0} : cuda::Scalar{nullptr, value};
  };
  const cuda::DeviceHyperparameters h = {scalar(learning_rate), scalar(rho), scalar(epsilon)};
  switch (arrays.dtype) {
    case DType::kHalf:
      return Emulate<Half>(arrays, h, max_blocks);
    case DType::kBFloat16:
      return Emulate<BFloat16>(arrays, h, max_blocks);
    case DType::kFloat:
      return Emulate<float>(arrays, h, max_blocks);
    case DType::kDouble:
      return Emulate<double>(arrays, h, max_blocks);
  }
}

// The launches that update tensors of these first addresses and counts: for each the number of its
// blocks, and for every `stride`-th block (block, begin, end), the addresses where it works.
using Blocks = std::vector<std::tuple<int64_t, uintptr_t, uintptr_t>>;
std::vector<std::tuple<int64_t, Blocks>> LaunchesOf(const std::vector<uintptr_t>& starts,
                                                    const std::vector<int64_t>& counts,
                                                    int64_t itemsize, int64_t max_blocks,
                                                    int64_t stride) {
  std::vector<TensorUpdate> updates;
  for (size_t i = 0; i < starts.size(); ++i) {
    void* const start = reinterpret_cast<void*>(starts[i]);
    updates.push_back({start, start, start, start, counts[i]});
  }
  std::vector<std::tuple<int64_t, Blocks>> launches;
  cuda::ForEachLaunch(
      updates, itemsize, {},
      [&](const auto& launch) {
        Blocks blocks;
        for (int64_t block = 0; block < launch.num_blocks; block += stride) {
          const cuda::Chunk chunk =
              cuda::FindChunk(launch, static_cast<int32_t>(block), cuda::kChunkBytes / itemsize);
          const auto start = reinterpret_cast<uintptr_t>(launch.tensors[chunk.tensor].var);
          blocks.emplace_back(block, start + chunk.begin * itemsize, start + chunk.end * itemsize);
        }
        launches.emplace_back(launch.num_blocks, std::move(blocks));
      },
      max_blocks);
  return launches;
}

}  // namespace

void DefineCudaFunctions(py::module_& module) {
  module.def("fused_adadelta_apply_on_device", &Apply);
  // For the tests.
  module.def("emulate_cuda", &EmulateOnHost);
  module.def("cuda_launches", &LaunchesOf);
  module.attr("CUDA_CHUNK_BYTES") = cuda::kChunkBytes;
}

}  // namespace tf_adadelta
