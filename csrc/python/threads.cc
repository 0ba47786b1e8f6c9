#include "python/threads.h"

#include <pthread.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace tf_adadelta {
namespace {

class Pool {
 public:
  // Starts threads until there are `num_threads`.
  void Grow(int num_threads) {
    const std::lock_guard<std::mutex> lock(mutex_);
    try {
      for (; num_threads_ < num_threads; ++num_threads_) {
        std::thread([this] { Run(); }).detach();
      }
    } catch (const std::system_error&) {
      // No thread to be had: those that there are do the work.
    }
  }

  void Schedule(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    has_task_.notify_one();
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      has_task_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable has_task_;
  std::deque<std::function<void()>> tasks_;
  int num_threads_ = 0;
};

// Never destroyed, since its threads end with the process.
Pool* pool = new Pool;

// A fork has the memory of its parent but none of the threads, one of which may have held the lock.
void ReplacePool() { pool = new Pool; }
[[maybe_unused]] const int registered = pthread_atfork(nullptr, nullptr, ReplacePool);

}  // namespace

Workers SharedWorkers(int num_threads) {
  pool->Grow(num_threads - 1);
  return {num_threads, [](std::function<void()> task) { pool->Schedule(std::move(task)); }};
}

}  // namespace tf_adadelta
