#include "python/dlpack.h"

#include <utility>

namespace tf_adadelta {
namespace {

namespace py = pybind11;

// As NumPy names it, where NumPy has it.
std::string NameOf(const dlpack::DataType& dtype) {
  static constexpr const char* kKinds[] = {"int",    "uint",    "float", "handle",
                                           "bfloat", "complex", "bool"};
  constexpr int kNumKinds = sizeof(kKinds) / sizeof(kKinds[0]);
  const std::string kind =
      dtype.code < kNumKinds ? kKinds[dtype.code] : "type " + std::to_string(dtype.code) + " of ";
  const std::string lanes = dtype.lanes == 1 ? "" : "x" + std::to_string(dtype.lanes);
  return kind + std::to_string(dtype.bits) + lanes;
}

bool IsContiguous(const dlpack::Tensor& tensor) {
  if (tensor.strides == nullptr) return true;
  uint64_t expected = 1;  // Nobody has checked yet that the sizes can be multiplied.
  bool contiguous = true;
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    if (tensor.shape[i] == 0) return true;  // There is nothing to be out of order.
    if (tensor.shape[i] != 1 && static_cast<uint64_t>(tensor.strides[i]) != expected) {
      contiguous = false;
    }
    expected *= static_cast<uint64_t>(tensor.shape[i]);
  }
  return contiguous;
}

}  // namespace

DlpackArray::DlpackArray(py::handle capsule, const std::string& what) {
  // The new names say that the array has been taken, and is no longer the capsule's to delete.
  if (PyCapsule_IsValid(capsule.ptr(), "dltensor_versioned")) {
    versioned_ = static_cast<dlpack::VersionedTensor*>(
        PyCapsule_GetPointer(capsule.ptr(), "dltensor_versioned"));
    if (versioned_->major_version != 1) {
      throw py::buffer_error(what + " comes by version " +
                             std::to_string(versioned_->major_version) +
                             " of DLPack, expected 0 or 1");
    }
    PyCapsule_SetName(capsule.ptr(), "used_dltensor_versioned");
    tensor_ = &versioned_->tensor;
  } else if (PyCapsule_IsValid(capsule.ptr(), "dltensor")) {
    managed_ = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
    PyCapsule_SetName(capsule.ptr(), "used_dltensor");
    tensor_ = &managed_->tensor;
  } else {
    throw py::type_error(what + ".__dlpack__() gave no capsule of DLPack, or a used one");
  }
}

DlpackArray::DlpackArray(DlpackArray&& other) noexcept
    : managed_(std::exchange(other.managed_, nullptr)),
      versioned_(std::exchange(other.versioned_, nullptr)),
      tensor_(std::exchange(other.tensor_, nullptr)) {}

DlpackArray::~DlpackArray() {
  if (managed_ != nullptr && managed_->deleter != nullptr) managed_->deleter(managed_);
  if (versioned_ != nullptr && versioned_->deleter != nullptr) versioned_->deleter(versioned_);
}

ArrayView DlpackArray::view() const {
  const bool read_only =
      versioned_ != nullptr && (versioned_->flags & dlpack::VersionedTensor::kReadOnly) != 0;
  return {reinterpret_cast<void*>(reinterpret_cast<uintptr_t>(tensor_->data) +
                                  static_cast<uintptr_t>(tensor_->byte_offset)),
          NameOf(tensor_->dtype),
          tensor_->dtype.bits * tensor_->dtype.lanes / 8,
          tensor_->shape,
          tensor_->ndim,
          IsContiguous(*tensor_),
          !read_only};
}

}  // namespace tf_adadelta
