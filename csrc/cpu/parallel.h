// Runs blocks of work on whatever threads the caller brings.
#ifndef TF_ADADELTA_CPU_PARALLEL_H_
#define TF_ADADELTA_CPU_PARALLEL_H_

#include <cstdint>
#include <functional>

namespace tf_adadelta {

// The threads that a door hands in.
struct Workers {
  // How many threads may work at once, the calling one included.
  int num_threads = 1;
  // Runs a task on another thread, soon, late, or only after the call has returned. Unused when
  // num_threads is 1.
  std::function<void(std::function<void()>)> schedule;
};

// Calls `body(block)` once for each block in [0, num_blocks) and returns when all are done.
//
// The caller claims blocks along with its helpers and waits only for blocks that a helper is
// working on, never for a helper to start: so it can run on a thread of the very pool that
// `schedule` feeds, however busy that pool is, without a deadlock.
void RunBlocks(int64_t num_blocks, const Workers& workers,
               const std::function<void(int64_t)>& body);

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_PARALLEL_H_
