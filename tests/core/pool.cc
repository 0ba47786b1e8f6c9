// Hundreds of calls at once on one pool of threads, made on the threads of that very pool: what
// TensorFlow and XLA do to the work-sharing of cpu/parallel.cc. Meant to be run under a sanitizer.
//
// pool [rounds]
#include <unistd.h>

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "cpu/dense.h"
#include "cpu/norms.h"
#include "cpu/parallel.h"
#include "cpu/sparse.h"

namespace {

using namespace tf_adadelta;

constexpr int kThreads = 4;
constexpr int kCalls = 300;

class Pool {
 public:
  Pool() {
    for (int i = 0; i < kThreads; ++i) {
      threads_.emplace_back([this] { Run(); });
    }
  }
  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void Call(std::function<void()> task) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_one();
  }

  // Helpers go before the calls that wait, or they would all find their work done.
  Workers AsWorkers() {
    return {kThreads + 1, [this](std::function<void()> task) {
              {
                const std::lock_guard<std::mutex> lock(mutex_);
                tasks_.push_front(std::move(task));
              }
              changed_.notify_one();
            }};
  }

 private:
  void Run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return ends_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool ends_ = false;
  std::vector<std::thread> threads_;
};

void Check(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "pool: %s\n", what);
  std::abort();
}

// Each block once, and what it wrote is seen by who called. The counts are plain: were a block
// claimed twice, or not waited for, a sanitizer would see the race. Some blocks take longer, so
// that others are claimed meanwhile, and the last ones are waited for.
void CountBlocks(const Workers& workers, int call) {
  std::vector<int> runs(call % 50);
  RunBlocks(static_cast<int64_t>(runs.size()), workers, [&](int64_t block) {
    if ((block + call) % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(30));
    ++runs[block];
  });
  for (const int count : runs) Check(count == 1, "a block was not run once");
}

struct Model {
  explicit Model(int call) {
    for (const int64_t count :
         {int64_t{1000} * call, int64_t{32 * 1024} * (call % 5), int64_t{7}}) {
      for (auto* role : {&vars, &accums, &accum_updates, &grads}) {
        role->emplace_back(count, 0.5f + 0.001f * static_cast<float>(call));
      }
    }
    for (int64_t i = 0; i < 3000; ++i) indices.push_back((i * i + call) % 1000);
    clock.assign(1001, 0);
    for (auto* role : {&vars, &accums, &accum_updates, &grads}) role->emplace_back(3000 * 4, 0.25f);
  }

  void Step(const Workers& workers) {
    std::vector<TensorUpdate> updates;
    std::vector<NormInput> inputs;
    for (size_t i = 0; i < 3; ++i) {
      const auto count = static_cast<int64_t>(vars[i].size());
      updates.push_back(
          {vars[i].data(), accums[i].data(), accum_updates[i].data(), grads[i].data(), count});
      inputs.push_back({grads[i].data(), nullptr, count});
    }
    norms.assign(inputs.size(), 0.0);
    SquaredNorms(DType::kFloat, inputs, 1.0, norms.data(), workers);
    DenseUpdate(DType::kFloat, updates, h, {}, workers);
    const std::vector<SparseTensorUpdate> sparse = {
        {vars[3].data(), accums[3].data(), accum_updates[3].data(), grads[3].data(), indices.data(),
         clock.data(), 1000, 4, static_cast<int64_t>(indices.size())}};
    SparseUpdate(DType::kFloat, IndexType::kInt64, sparse, h, workers);
  }

  bool operator==(const Model& other) const {
    return vars == other.vars && accums == other.accums && accum_updates == other.accum_updates &&
           norms == other.norms && clock == other.clock;
  }

  const Hyperparameters h = {1.0, 0.95, 1e-7};
  std::vector<std::vector<float>> vars, accums, accum_updates, grads;
  std::vector<int64_t> indices, clock;
  std::vector<double> norms;
};

void RunRound() {
  constexpr int kModels = 20;
  std::vector<Model> expected, models;
  for (int i = 0; i < kModels; ++i) {
    models.emplace_back(i);
    expected.emplace_back(i);
    expected.back().Step(Workers{});
  }
  std::mutex mutex;
  std::condition_variable all_done;
  int done = 0;
  Pool pool;
  for (int call = 0; call < kCalls; ++call) {
    pool.Call([&, call] {
      if (call % (kCalls / kModels) == 0) {
        models[call / (kCalls / kModels)].Step(pool.AsWorkers());
      } else {
        CountBlocks(pool.AsWorkers(), call);
      }
      const std::lock_guard<std::mutex> lock(mutex);
      if (++done == kCalls) all_done.notify_one();
    });
  }
  std::unique_lock<std::mutex> lock(mutex);
  all_done.wait(lock, [&] { return done == kCalls; });
  Check(models == expected, "a call gave other bits than one thread alone");
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 10;
  alarm(600);  // A deadlock ends so.
  for (int round = 0; round < rounds; ++round) RunRound();
  std::printf("%d calls on a pool of %d threads\n", rounds * kCalls, kThreads);
  return 0;
}
