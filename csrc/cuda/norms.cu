#include <cuda_runtime.h>

#include <string>

#include "cuda/compute.h"
#include "cuda/norms.h"
#include "cuda/norms_thread.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

// Returns the sum of what the threads of the block bring, to its first thread.
template <int kBlockThreads>
__device__ double AddUp(double value) {
  __shared__ double sums[kBlockThreads];
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = value;
  for (int half = kBlockThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    AddHalf(sums, half, thread);
  }
  return sums[0];
}

template <typename Storage, typename Kind, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    SquareKernel(const __grid_constant__ Launch<Kind, kCapacity> launch) {
  const double sum = AddUp<kThreads>(SquareThread<Storage>(launch, static_cast<int32_t>(blockIdx.x),
                                                           static_cast<int>(threadIdx.x)));
  if (threadIdx.x == 0) launch.scalars.pieces[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kPieceThreads)
    PieceKernel(const __grid_constant__ PieceLaunch launch) {
  const double sum = AddUp<kPieceThreads>(
      PieceThread(launch, static_cast<int>(blockIdx.x), static_cast<int>(threadIdx.x)));
  if (threadIdx.x == 0) launch.squared_norms[blockIdx.x] = sum;
}

template <typename Storage, typename Kind>
std::string LaunchAll(const std::vector<NormInput>& inputs, const Scalar& grad_scale,
                      const Scalar& update, double* squared_norms, const Allocate& allocate,
                      cudaStream_t stream) {
  double* pieces = nullptr;
  if (const int64_t count = CountPieces<Kind>(inputs, sizeof(Storage)); count > 0) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(double);
    pieces = static_cast<double*>(allocate(bytes));
    if (pieces == nullptr) {
      return "no device memory for the " + std::to_string(bytes) + " bytes that the norms take";
    }
  }
  cudaError_t error = cudaSuccess;
  ForEachSquareLaunch<Kind>(
      inputs, sizeof(Storage), grad_scale, update, pieces, [&](const auto& launch) {
        constexpr int kCapacity = sizeof(launch.tensors) / sizeof(launch.tensors[0]);
        if (error != cudaSuccess) return;
        error = LaunchKernel(&SquareKernel<Storage, Kind, kCapacity>, dim3(launch.num_blocks),
                             kThreads, stream, launch);
      });
  ForEachPieceLaunch<Kind>(
      inputs, sizeof(Storage), pieces, squared_norms, [&](const PieceLaunch& launch) {
        if (error != cudaSuccess) return;
        error = LaunchKernel(&PieceKernel, dim3(launch.num_tensors), kPieceThreads, stream, launch);
      });
  return Explain(error);
}

}  // namespace

std::string SquaredNorms(DType dtype, const std::vector<NormInput>& inputs,
                         const Scalar& grad_scale, const Scalar& update, double* squared_norms,
                         const Allocate& allocate, const Stream& stream) {
  const CurrentDevice device(stream.device);
  if (device.error() != cudaSuccess) return Explain(device.error());
  const auto handle = static_cast<cudaStream_t>(stream.handle);
  return WithNormKind(inputs, [&](auto kind) {
    return WithElement(dtype, [&](auto storage) {
      return LaunchAll<decltype(storage), decltype(kind)>(inputs, grad_scale, update, squared_norms,
                                                          allocate, handle);
    });
  });
}

}  // namespace tf_adadelta::cuda
