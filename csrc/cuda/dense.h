// The dense update of a list of variables on a GPU: one launch for the whole list, or a few for a
// long one. Plain C++: whoever calls it needs no CUDA header.
#ifndef TF_ADADELTA_CUDA_DENSE_H_
#define TF_ADADELTA_CUDA_DENSE_H_

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "api.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

// A hyperparameter: in device memory, so that the host never waits for it, or known to the host.
struct Scalar {
  const double* pointer;  // To device memory; null where `value` counts.
  double value;
};

// What the random bits of a call depend on.
struct DeviceRandom {
  // The step, as `Hyperparameters` has it: in device memory, or known to the host.
  const int64_t* step_pointer = nullptr;
  int64_t step = 0;
  // In device memory, one for each variable of the call; null: those of the updates.
  const int64_t* seeds = nullptr;
};

struct DeviceHyperparameters {
  Scalar learning_rate;
  Scalar rho;
  Scalar epsilon;
  DeviceRandom random;
};

// What is done around the update in the same pass, as `Options` has it. By default nothing.
struct DeviceOptions {
  Scalar grad_scale = {nullptr, 1.0};
  Scalar update = {nullptr, 1.0};  // 0 for a step that does not.
  Scalar clipvalue = {nullptr, std::numeric_limits<double>::infinity()};
  Scalar weight_decay = {nullptr, 0.0};
  Scalar ema_momentum = {nullptr, 0.0};
  // In device memory, one for each variable of the call; null: 1.
  const double* clip_factors = nullptr;
};

// Where work is queued.
struct Stream {
  static constexpr int kCurrentDevice = -1;

  void* handle;  // A cudaStream_t.
  int device = kCurrentDevice;
};

// Queues the update of every variable of the list. Allocates nothing and waits for nothing, so it
// can be captured into a CUDA graph. The same inputs give the same bits on every run. Returns what
// went wrong in words, empty if nothing did. `options` may be null where the variables have neither
// averages nor grad_accums: then nothing of them is compiled in.
[[nodiscard]] TF_ADADELTA_API std::string DenseUpdate(DType dtype,
                                                      const std::vector<TensorUpdate>& updates,
                                                      const DeviceHyperparameters& hyperparameters,
                                                      const DeviceOptions* options,
                                                      const Stream& stream);

// Loads the kernels that DenseUpdate would launch on the current device for variables that have
// averages, or grad_accums, and for options: the driver may not do that while the stream of a first
// call is recorded into a graph. Returns like DenseUpdate.
[[nodiscard]] TF_ADADELTA_API std::string LoadDenseKernels(DType dtype, bool options, bool averages,
                                                           bool grad_accums);

// Queues a copy within the memory of the device. Returns like DenseUpdate.
[[nodiscard]] TF_ADADELTA_API std::string Copy(void* to, const void* from, size_t bytes,
                                               const Stream& stream);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_DENSE_H_
