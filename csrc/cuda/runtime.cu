#include "cuda/dense.h"
#include "cuda/driver.h"
#include "cuda/driver_version.h"
#include "cuda/runtime.h"

namespace tf_adadelta::cuda {
namespace {

// Such as "13.0" for 13000.
std::string VersionText(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Older drivers take no kernel with more than 4 KB of parameters (launch_plan.h).
constexpr int kOldestDriver = 12010;

std::string DriverTooOld() {
  const int driver = DriverVersion();
  const std::string toolkit = VersionText(CUDART_VERSION);
  if (driver == 0) {
    return "no NVIDIA driver is installed on this machine; the CUDA kernels of tf_adadelta (built "
           "with CUDA " +
           toolkit + ") need one";
  }
  if (driver < kOldestDriver) {
    return "the NVIDIA driver is too old: it supports CUDA " + VersionText(driver) +
           ", and the kernels of tf_adadelta need " + VersionText(kOldestDriver) +
           " or newer. Update the driver";
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
  const int capability = 10 * major + minor;
  const std::string found =
      "this GPU has compute capability " + std::to_string(major) + "." + std::to_string(minor) +
      ", and tf_adadelta was built for the architectures " + TF_ADADELTA_CUDA_ARCHITECTURES;
  if (capability < 70) return found + ". The kernels need 7.0 or newer";
  const std::string rebuild =
      "CMAKE_ARGS=\"-DCMAKE_CUDA_ARCHITECTURES=" + std::to_string(capability) + '"';
  // CUDA 13 has dropped Volta.
  if (CUDART_VERSION >= 13000 && capability < 75) {
    return found + ". Rebuild it with a CUDA toolkit of 12.1 to 12.9 and " + rebuild;
  }
  return found + ". Rebuild it with " + rebuild;
}

}  // namespace

int DriverVersion() {
  int version = 0;
  cudaDriverGetVersion(&version);
  return version;
}

CurrentDevice::CurrentDevice(int device) : device_(device) {
  static const bool supported = DriverVersion() >= kOldestDriver;
  if (!supported) error_ = cudaErrorInsufficientDriver;
  if (device == Stream::kCurrentDevice || error_ != cudaSuccess) return;
  error_ = cudaGetDevice(&previous_);
  if (error_ != cudaSuccess || previous_ == device) return;
  pushed_ = PushDevice(device);
  if (pushed_) return;
  error_ = cudaSetDevice(device);
  set_ = error_ == cudaSuccess;
}

CurrentDevice::~CurrentDevice() {
  if (pushed_) PopDevice(device_);
  if (set_) cudaSetDevice(previous_);
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
