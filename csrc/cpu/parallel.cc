#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace tf_adadelta {
namespace {

// A block takes about as long as it takes to be woken: who waits for the last ones stays awake.
constexpr std::chrono::microseconds kStayAwake(50);

// Shared with the helpers, since one may start only after the call has returned. It then finds no
// block left and never touches `body`, which by that time is gone.
struct Claims {
  // Each worker has a run of consecutive blocks to begin with, so that it streams through memory
  // far from the others, and then takes what is left of theirs.
  struct alignas(64) Share {
    std::atomic<int64_t> next;
    int64_t end;
  };

  Claims(int64_t num_blocks, int num_workers, const std::function<void(int64_t)>& body)
      : num_blocks(num_blocks), shares(num_workers), body(body) {
    for (int64_t i = 0; i < num_workers; ++i) {
      shares[i].next = i * num_blocks / num_workers;
      shares[i].end = (i + 1) * num_blocks / num_workers;
    }
  }

  void Work(size_t worker) {
    int64_t worked = 0;
    for (size_t i = 0; i < shares.size(); ++i) {
      Share& share = shares[(worker + i) % shares.size()];
      for (int64_t block;
           (block = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) {
        body(block);
        ++worked;
      }
    }
    if (worked == 0) return;
    std::lock_guard<std::mutex> lock(mutex);
    done += worked;
    if (done == num_blocks) all_done.notify_one();
  }

  void Wait() {
    const auto until = std::chrono::steady_clock::now() + kStayAwake;
    while (done != num_blocks) {
      if (std::chrono::steady_clock::now() > until) return Sleep();
      std::this_thread::yield();
    }
  }

  void Sleep() {
    std::unique_lock<std::mutex> lock(mutex);
    all_done.wait(lock, [this] { return done == num_blocks; });
  }

  const int64_t num_blocks;
  std::vector<Share> shares;
  const std::function<void(int64_t)>& body;
  std::mutex mutex;
  std::condition_variable all_done;
  std::atomic<int64_t> done = 0;
};

}  // namespace

void RunBlocks(int64_t num_blocks, const Workers& workers,
               const std::function<void(int64_t)>& body) {
  const int num_workers = static_cast<int>(std::min<int64_t>(workers.num_threads, num_blocks));
  if (num_workers <= 1) {
    for (int64_t block = 0; block < num_blocks; ++block) body(block);
    return;
  }
  const auto claims = std::make_shared<Claims>(num_blocks, num_workers, body);
  for (int helper = 1; helper < num_workers; ++helper) {
    workers.schedule([claims, helper] { claims->Work(helper); });
  }
  claims->Work(0);
  claims->Wait();
}

}  // namespace tf_adadelta
