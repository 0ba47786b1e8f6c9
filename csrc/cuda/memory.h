// Device memory for the work of one call. Plain C++, like dense.h.
#ifndef TF_ADADELTA_CUDA_MEMORY_H_
#define TF_ADADELTA_CUDA_MEMORY_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "api.h"
#include "cuda/dense.h"

namespace tf_adadelta::cuda {

// The least alignment of what Allocate returns: the most that XLA may be asked for.
inline constexpr size_t kWorkspaceAlignment = 16;

// Returns device memory for work that is queued on the stream of the call; null if there is none.
using Allocate = std::function<void*(size_t bytes)>;

// Device memory, taken and given back in the order of a stream.
class TF_ADADELTA_API StreamMemory {
 public:
  explicit StreamMemory(const Stream& stream) : stream_(stream) {}
  StreamMemory(const StreamMemory&) = delete;
  StreamMemory& operator=(const StreamMemory&) = delete;
  // Gives back what Free has not, as after an exception.
  ~StreamMemory();

  // Returns null where it fails.
  void* Allocate(size_t bytes);

  // Gives everything back.
  void Free();

  // What has gone wrong first, in words; empty if nothing has.
  const std::string& error() const { return error_; }

 private:
  Stream stream_;
  std::vector<void*> blocks_;
  std::string error_;
};

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_MEMORY_H_
