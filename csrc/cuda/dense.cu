#include <cuda_runtime.h>

#include <string>

#include "cuda/compute.h"
#include "cuda/dense.h"
#include "cuda/dense_thread.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

// How many blocks a multiprocessor must have room for; 0: the compiler decides. With options and
// elements of 16 or 64 bits, with accumulators in blocks, and on Volta always, some compilers spill
// registers to have room for one more. Two blocks have 64 KB on their way, of blocks 40, and less
// than half of it keeps the memory busy (docs/cuda.md).
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 750
inline constexpr bool kIsVolta = true;
#else
inline constexpr bool kIsVolta = false;
#endif
template <typename Storage, typename Kind>
inline constexpr int kMinBlocks =
    kIsVolta || (Kind::kOptions && sizeof(Storage) != 4) || Kind::kBlocks ? 2 : 0;

template <typename Storage, typename Kind, int kCapacity>
__global__ void __launch_bounds__(kThreads, kMinBlocks<Storage, Kind>)
    DenseKernel(const __grid_constant__ Launch<Kind, kCapacity> launch) {
  DenseThread<Storage>(launch, static_cast<int32_t>(blockIdx.x), static_cast<int>(threadIdx.x));
}

template <typename Storage>
cudaError_t LaunchAll(const std::vector<TensorUpdate>& updates,
                      const DeviceHyperparameters& hyperparameters, const DeviceOptions* options,
                      cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  const bool averages = HaveAverages(updates);
  const bool grad_accums = HaveGradAccums(updates);
  WithDenseKind<Storage>(options != nullptr, averages, grad_accums, [&](auto kind) {
    using Kind = decltype(kind);
    ForEachDenseLaunch<Kind>(
        updates, kUnitSize<Storage>, hyperparameters, options, [&](const auto& launch) {
          constexpr int kCapacity = sizeof(launch.tensors) / sizeof(launch.tensors[0]);
          if (error != cudaSuccess) return;
          error = LaunchKernel(&DenseKernel<Storage, Kind, kCapacity>, dim3(launch.num_blocks),
                               kThreads, stream, launch);
        });
  });
  return error;
}

template <typename Storage>
cudaError_t LoadAll(bool options, bool averages, bool grad_accums) {
  cudaError_t error = cudaSuccess;
  WithDenseKind<Storage>(options, averages, grad_accums, [&](auto kind) {
    using Kind = decltype(kind);
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, &DenseKernel<Storage, Kind, kSmallCapacity<Kind>>);
    if (error != cudaSuccess) return;
    error = cudaFuncGetAttributes(&attributes, &DenseKernel<Storage, Kind, kLargeCapacity<Kind>>);
  });
  return error;
}

}  // namespace

std::string DenseUpdate(DType dtype, const std::vector<TensorUpdate>& updates,
                        const DeviceHyperparameters& hyperparameters, const DeviceOptions* options,
                        const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  return Explain(WithStorage(dtype, [&](auto storage) {
    return LaunchAll<decltype(storage)>(updates, hyperparameters, options,
                                        static_cast<cudaStream_t>(stream.handle));
  }));
}

std::string LoadDenseKernels(DType dtype, bool options, bool averages, bool grad_accums) {
  return Explain(WithStorage(dtype, [&](auto storage) {
    return LoadAll<decltype(storage)>(options, averages, grad_accums);
  }));
}

std::string Copy(void* to, const void* from, size_t bytes, const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  return Explain(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                 static_cast<cudaStream_t>(stream.handle)));
}

}  // namespace tf_adadelta::cuda
