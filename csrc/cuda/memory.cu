#include <cuda_runtime.h>

#include "cuda/driver.h"
#include "cuda/memory.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

cudaError_t AllocateOn(int device, size_t bytes, cudaStream_t stream, void** block) {
  if (device == Stream::kCurrentDevice) {
    const cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess) return error;
  }
  const cudaMemPool_t pool = PoolThatKeeps(device);
  return pool != nullptr ? AllocateFromPool(block, bytes, pool, stream)
                         : cudaMallocAsync(block, bytes, stream);
}

}  // namespace

void* StreamMemory::Allocate(size_t bytes) {
  const CurrentDevice device(stream_.device);
  void* block = nullptr;
  cudaError_t error = device.error();
  if (error == cudaSuccess) {
    error = AllocateOn(stream_.device, bytes, static_cast<cudaStream_t>(stream_.handle), &block);
  }
  if (error != cudaSuccess) {
    if (error_.empty()) {
      error_ = std::to_string(bytes) +
               " bytes of device memory cannot be had in the order of the " +
               "stream: " + Explain(error);
    }
    return nullptr;
  }
  blocks_.push_back(block);
  return block;
}

void StreamMemory::Free() {
  if (blocks_.empty()) return;
  const CurrentDevice device(stream_.device);
  for (void* block : blocks_) {
    const std::string error =
        Explain(cudaFreeAsync(block, static_cast<cudaStream_t>(stream_.handle)));
    if (error_.empty()) error_ = error;
  }
  blocks_.clear();
}

StreamMemory::~StreamMemory() { Free(); }

}  // namespace tf_adadelta::cuda
