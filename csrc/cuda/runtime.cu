#include "cuda/dense.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

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

}  // namespace

CurrentDevice::CurrentDevice(int device) {
  if (device == Stream::kCurrentDevice) return;
  error_ = cudaGetDevice(&previous_);
  if (error_ != cudaSuccess || previous_ == device) return;
  error_ = cudaSetDevice(device);
  changed_ = error_ == cudaSuccess;
}

CurrentDevice::~CurrentDevice() {
  if (changed_) cudaSetDevice(previous_);
}

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

}  // namespace tf_adadelta::cuda
