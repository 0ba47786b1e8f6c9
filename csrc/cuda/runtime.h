// What every function that queues kernels needs of the CUDA runtime.
#ifndef TF_ADADELTA_CUDA_RUNTIME_H_
#define TF_ADADELTA_CUDA_RUNTIME_H_

#include <cuda_runtime.h>

#include <string>
#include <type_traits>

namespace tf_adadelta::cuda {

// Makes a device the current one while it lives. Fails where the driver is too old for the kernels.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device);
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice();

  cudaError_t error() const { return error_; }

 private:
  const int device_;
  cudaError_t error_ = cudaSuccess;
  bool pushed_ = false;
  bool set_ = false;  // In place of `previous_`.
  int previous_ = 0;
};

// The error in words, empty for success. Takes it back from the runtime, where a later and innocent
// call would find it.
std::string Explain(cudaError_t error);

// Not <<<>>>, after which the error would have to be fetched from where others leave theirs.
template <typename... Parameters, typename... Arguments>
cudaError_t LaunchKernel(void (*kernel)(Parameters...), dim3 blocks, int threads,
                         cudaStream_t stream, const Arguments&... arguments) {
  void* pointers[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
  static_assert((std::is_same_v<Parameters, Arguments> && ...));
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), blocks, dim3(threads), pointers, 0,
                          stream);
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_RUNTIME_H_
