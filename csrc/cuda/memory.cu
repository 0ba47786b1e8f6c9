#include <cuda_runtime.h>

#include "cuda/memory.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {

void* StreamMemory::Allocate(size_t bytes) {
  const CurrentDevice device(stream_.device);
  void* block = nullptr;
  if (device.error() != cudaSuccess ||
      cudaMallocAsync(&block, bytes, static_cast<cudaStream_t>(stream_.handle)) != cudaSuccess) {
    cudaGetLastError();
    return nullptr;
  }
  blocks_.push_back(block);
  return block;
}

StreamMemory::~StreamMemory() {
  const CurrentDevice device(stream_.device);
  for (void* block : blocks_) cudaFreeAsync(block, static_cast<cudaStream_t>(stream_.handle));
}

}  // namespace tf_adadelta::cuda
