#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>

namespace tf_adadelta {
namespace {

// Shared with the helpers, since one may start only after the call has returned. It then finds no
// block left and never touches `body`, which by that time is gone.
struct Claims {
  Claims(int64_t num_blocks, const std::function<void(int64_t)>& body)
      : num_blocks(num_blocks), body(body) {}

  void Work() {
    int64_t worked = 0;
    for (int64_t block; (block = next.fetch_add(1, std::memory_order_relaxed)) < num_blocks;) {
      body(block);
      ++worked;
    }
    if (worked == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    done += worked;
    if (done == num_blocks) all_done.notify_one();
  }

  void Wait() {
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done == num_blocks; });
  }

  const int64_t num_blocks;
  const std::function<void(int64_t)>& body;
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::condition_variable all_done;
  int64_t done = 0;  // Guarded by mutex.
};

}  // namespace

void RunBlocks(int64_t num_blocks, const Workers& workers,
               const std::function<void(int64_t)>& body) {
  const int64_t num_helpers = std::min<int64_t>(workers.num_threads, num_blocks) - 1;
  if (num_helpers <= 0) {
    for (int64_t block = 0; block < num_blocks; ++block) body(block);
    return;
  }
  const auto claims = std::make_shared<Claims>(num_blocks, body);
  for (int64_t i = 0; i < num_helpers; ++i) {
    workers.schedule([claims] { claims->Work(); });
  }
  claims->Work();
  claims->Wait();
}

}  // namespace tf_adadelta
