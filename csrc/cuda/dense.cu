#include <cuda_runtime.h>

#include <string>

#include "cuda/dense.h"
#include "cuda/dense_thread.h"

namespace tf_adadelta::cuda {
namespace {

template <typename Storage, int kCapacity>
__global__ void __launch_bounds__(kThreads)
    DenseKernel(const __grid_constant__ Launch<kCapacity> launch) {
  DenseThread<Storage>(launch, static_cast<int32_t>(blockIdx.x), static_cast<int>(threadIdx.x));
}

// Makes a device the current one while it lives.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    if (device == Stream::kCurrentDevice) return;
    error_ = cudaGetDevice(&previous_);
    if (error_ != cudaSuccess || previous_ == device) return;
    error_ = cudaSetDevice(device);
    changed_ = error_ == cudaSuccess;
  }
  ~CurrentDevice() {
    if (changed_) cudaSetDevice(previous_);
  }

  cudaError_t error() const { return error_; }

 private:
  cudaError_t error_ = cudaSuccess;
  int previous_ = 0;
  bool changed_ = false;
};

// Such as "13.0" for 13000.
std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string DriverTooOld() {
  int driver = 0;
  cudaDriverGetVersion(&driver);
  const std::string toolkit = VersionText(CUDART_VERSION);
  if (driver == 0) {
    return "no NVIDIA driver is installed on this machine; the CUDA kernels of tf_adadelta (built "
           "with CUDA " +
           toolkit + ") need one";
  }
  return "the NVIDIA driver is too old: it supports CUDA " + VersionText(driver) +
         " and tf_adadelta was built with CUDA " + toolkit +
         ". Update the driver, or rebuild tf_adadelta with a CUDA toolkit that the driver supports";
}

std::string NoKernelImage() {
  int device = 0, major = 0, minor = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return "this GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
         ", and tf_adadelta was built for the architectures " TF_ADADELTA_CUDA_ARCHITECTURES
         ". Rebuild it with CMAKE_CUDA_ARCHITECTURES=" +
         std::to_string(10 * major + minor);
}

// The error in words, empty for success. Takes it back from the runtime, where a later and innocent
// call would find it.
std::string Explain(cudaError_t error) {
  if (error == cudaSuccess) return "";
  cudaGetLastError();
  std::string text;
  switch (error) {
    case cudaErrorInsufficientDriver:
    case cudaErrorUnsupportedPtxVersion:
      text = DriverTooOld();
      break;
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      text = NoKernelImage();
      break;
    default:
      text = std::string("CUDA says: ") + cudaGetErrorString(error) + " (" +
             cudaGetErrorName(error) + ")";
  }
  cudaGetLastError();
  return text;
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
