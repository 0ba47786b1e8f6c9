// Arrays of other libraries, as DLPack hands them over.
//
// The declarations are those of DLPack's ABI, versions 0 and 1:
// https://dmlc.github.io/dlpack/latest/c_api.html
#ifndef TF_ADADELTA_PYTHON_DLPACK_H_
#define TF_ADADELTA_PYTHON_DLPACK_H_

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "python/arrays.h"

namespace tf_adadelta {
namespace dlpack {

inline constexpr int32_t kCuda = 2;
inline constexpr int32_t kCudaManaged = 13;

struct Device {
  int32_t type;
  int32_t id;
};

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;  // In elements; null for row-major order.
  uint64_t byte_offset;
};

// In a capsule named "dltensor".
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

// In a capsule named "dltensor_versioned".
struct VersionedTensor {
  static constexpr uint64_t kReadOnly = 1;

  uint32_t major_version;
  uint32_t minor_version;
  void* context;
  void (*deleter)(VersionedTensor*);
  uint64_t flags;
  Tensor tensor;
};

}  // namespace dlpack

// An array taken out of its capsule, and given back to its library when this goes.
class DlpackArray {
 public:
  // Throws a Python TypeError for what is no capsule of DLPack, a BufferError for one of a version
  // that is not known. `what` is how a message names the array.
  DlpackArray(pybind11::handle capsule, const std::string& what);
  DlpackArray(DlpackArray&& other) noexcept;
  DlpackArray(const DlpackArray&) = delete;
  DlpackArray& operator=(const DlpackArray&) = delete;
  ~DlpackArray();

  const dlpack::Device& device() const { return tensor_->device; }
  ArrayView view() const;

 private:
  dlpack::ManagedTensor* managed_ = nullptr;
  dlpack::VersionedTensor* versioned_ = nullptr;  // Either this or managed_.
  const dlpack::Tensor* tensor_ = nullptr;
};

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_PYTHON_DLPACK_H_
