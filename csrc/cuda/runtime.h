// What every function that queues kernels needs of the CUDA runtime.
#ifndef TF_ADADELTA_CUDA_RUNTIME_H_
#define TF_ADADELTA_CUDA_RUNTIME_H_

#include <cuda_runtime.h>

#include <string>

namespace tf_adadelta::cuda {

// Makes a device the current one while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  ~CurrentDevice();

  cudaError_t error() const { return error_; }

 private:
  cudaError_t error_ = cudaSuccess;
  int previous_ = 0;
  bool changed_ = false;
};

// The error in words, empty for success. Takes it back from the runtime, where a later and innocent
// call would find it.
std::string Explain(cudaError_t error);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_RUNTIME_H_
