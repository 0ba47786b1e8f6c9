#include <cuda_runtime.h>

#include <string>

#include "cuda/dense.h"
#include "cuda/dense_thread.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

template <typename Storage, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    DenseKernel(const __grid_constant__ Launch<kCapacity> launch) {
  DenseThread<Storage>(launch, static_cast<int32_t>(blockIdx.x), static_cast<int>(threadIdx.x));
}

template <typename Storage>
cudaError_t LaunchAll(const std::vector<TensorUpdate>& updates,
                      const DeviceHyperparameters& hyperparameters, cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  ForEachLaunch(updates, sizeof(Storage), hyperparameters, [&](auto launch) {
    if (error != cudaSuccess) return;
    constexpr int kCapacity = sizeof(launch.tensors) / sizeof(launch.tensors[0]);
    void* parameters[] = {&launch};
    // Not <<<>>>, after which the error would have to be fetched from where others leave theirs.
    error = cudaLaunchKernel(reinterpret_cast<const void*>(&DenseKernel<Storage, kCapacity>),
                             dim3(launch.num_blocks), dim3(kThreads), parameters, 0, stream);
  });
  return error;
}

}  // namespace

std::string DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                        const DeviceHyperparameters& hyperparameters, const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  switch (dtype) {
    case DType::kHalf:
      return Explain(LaunchAll<Half>(updates, hyperparameters, handle));
    case DType::kBFloat16:
      return Explain(LaunchAll<BFloat16>(updates, hyperparameters, handle));
    case DType::kFloat:
      return Explain(LaunchAll<float>(updates, hyperparameters, handle));
    case DType::kDouble:
      return Explain(LaunchAll<double>(updates, hyperparameters, handle));
  }
  return "unknown dtype";
}

std::string Copy(void* to, const void* from, size_t bytes, const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  return Explain(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                 static_cast<cudaStream_t>(stream.handle)));
}

}  // namespace tf_adadelta::cuda
