// What the driver can do and the runtime cannot. Its functions are looked up in the driver that the
// process has loaded, so that nothing is linked with it: a build with CUDA loads without one.
#ifndef TF_ADADELTA_CUDA_DRIVER_H_
#define TF_ADADELTA_CUDA_DRIVER_H_

#include <cuda_runtime.h>

namespace tf_adadelta::cuda {

// Makes a device the current one of this thread without a look at the one that is: to set that
// again, with cudaSetDevice, would create a context on it, hundreds of megabytes on a GPU that
// perhaps nobody uses. Returns false, and has done nothing, where the driver cannot be asked.
[[nodiscard]] bool PushDevice(int device);
void PopDevice(int device);

// Returns the pool of a device that keeps the memory that it is given back; null where the driver
// cannot be asked. The device's default pool returns it to the system whenever somebody waits for
// the GPU, and the next allocation takes that much longer.
cudaMemPool_t PoolThatKeeps(int device);

// As cudaMallocFromPoolAsync.
cudaError_t AllocateFromPool(void** block, size_t bytes, cudaMemPool_t pool, cudaStream_t stream);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_DRIVER_H_
