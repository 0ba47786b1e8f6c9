// What one thread of the kernel does. It runs on the host too, where the tests call it for every
// thread of a launch.
#ifndef TF_ADADELTA_CUDA_DENSE_THREAD_H_
#define TF_ADADELTA_CUDA_DENSE_THREAD_H_

#include <cstdint>
#include <stdexcept>
#include <type_traits>

#include "adadelta.h"
#include "cuda/compute.h"
#include "cuda/launch_plan.h"
#include "storage.h"

namespace tf_adadelta::cuda {

// What one instruction loads or stores.
template <typename Storage>
struct alignas(kVectorBytes) Vector {
  static constexpr int kSize = kVectorBytes / sizeof(Storage);
  Storage elements[kSize];
};

// Vector `i` from an address, which a GPU accepts only at multiples of its size. The host, where
// nobody but the tests comes by, is made to refuse others too.
template <typename Storage>
TF_ADADELTA_INLINE auto& VectorAt(Storage* start, int i) {
#if !defined(__CUDA_ARCH__)
  if (reinterpret_cast<uintptr_t>(start) % kVectorBytes != 0) {
    throw std::logic_error("a vector is accessed at an address that is not aligned");
  }
#endif
  using Element = std::remove_const_t<Storage>;
  using Result =
      std::conditional_t<std::is_const_v<Storage>, const Vector<Element>, Vector<Element>>;
  return reinterpret_cast<Result*>(start)[i];
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void UpdateElement(const Scalars<Compute>& scalars, const Storage& grad,
                                      Storage& var, Storage& accum, Storage& accum_update) {
  Compute x = Load(var);
  Compute a = Load(accum);
  Compute u = Load(accum_update);
  const Compute normalized_grad = AccumulateGradient<Compute>(scalars, Load(grad), a);
  ApplyUpdate<Compute>(scalars, normalized_grad, x, u);
  Store(x, &var);
  Store(a, &accum);
  Store(u, &accum_update);
}

// Thread `thread` of block `block`: every kThreads-th vector of the block's chunk, or every
// kThreads-th element where the tensor does not start at a vector's address.
template <typename Storage, int kCapacity>
TF_ADADELTA_INLINE void DenseThread(const Launch<kCapacity>& launch, int32_t block, int thread) {
  using Compute = typename ComputeOf<Storage>::type;
  constexpr int kSize = Vector<Storage>::kSize;
  const Chunk chunk = FindChunk(launch, block, kChunkBytes / sizeof(Storage));
  const LaunchTensor& tensor = launch.tensors[chunk.tensor];
  Storage* const var = static_cast<Storage*>(tensor.var) + chunk.begin;
  Storage* const accum = static_cast<Storage*>(tensor.accum) + chunk.begin;
  Storage* const accum_update = static_cast<Storage*>(tensor.accum_update) + chunk.begin;
  const Storage* const grad = static_cast<const Storage*>(tensor.grad) + chunk.begin;
  const int size = static_cast<int>(chunk.end - chunk.begin);

  const auto address = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); };
  const bool aligned =
      (address(var) | address(accum) | address(accum_update) | address(grad)) % kVectorBytes == 0;
  const int vectors = aligned ? size / kSize : 0;

  // All loads first: so many bytes must be on their way at once for the memory to be busy.
  Vector<Storage> x[kVectors], a[kVectors], u[kVectors], g[kVectors];
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int vector = i * kThreads + thread;
    if (vector < vectors) {
      g[i] = VectorAt(grad, vector);
      a[i] = VectorAt(accum, vector);
      u[i] = VectorAt(accum_update, vector);
      x[i] = VectorAt(var, vector);
    }
  }
  const Scalars<Compute> scalars = ReadScalars<Compute>(launch.hyperparameters);
  TF_ADADELTA_UNROLL
  for (int i = 0; i < kVectors; ++i) {
    const int vector = i * kThreads + thread;
    if (vector < vectors) {
      TF_ADADELTA_UNROLL
      for (int j = 0; j < kSize; ++j) {
        UpdateElement<Storage, Compute>(scalars, g[i].elements[j], x[i].elements[j],
                                        a[i].elements[j], u[i].elements[j]);
      }
      VectorAt(var, vector) = x[i];
      VectorAt(accum, vector) = a[i];
      VectorAt(accum_update, vector) = u[i];
    }
  }
  for (int i = vectors * kSize + thread; i < size; i += kThreads) {
    UpdateElement<Storage, Compute>(scalars, grad[i], var[i], accum[i], accum_update[i]);
  }
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_DENSE_THREAD_H_
