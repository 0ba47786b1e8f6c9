#include <cuda.h>
#include <dlfcn.h>

#include <cstdint>
#include <limits>
#include <map>
#include <mutex>

#include "cuda/driver.h"

namespace tf_adadelta::cuda {
namespace {

struct Driver {
  decltype(&cuDevicePrimaryCtxRetain) retain = nullptr;
  decltype(&cuDevicePrimaryCtxRelease) release = nullptr;
  decltype(&cuCtxPushCurrent) push = nullptr;
  decltype(&cuCtxPopCurrent) pop = nullptr;
  decltype(&cuMemPoolCreate) create_pool = nullptr;
  decltype(&cuMemPoolSetAttribute) set_pool_attribute = nullptr;
  decltype(&cuMemAllocFromPoolAsync) allocate = nullptr;

  bool has_contexts() const { return retain && release && push && pop; }
  bool has_pools() const { return create_pool && set_pool_attribute && allocate; }
};

const Driver& TheDriver() {
  static const Driver driver = [] {
    Driver found;
    void* const library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (library == nullptr) return found;
    const auto look_up = [&](const char* name, auto* function) {
      *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    };
    // cuda.h gives some of them other names, those of their newest versions.
    look_up("cuDevicePrimaryCtxRetain", &found.retain);
    look_up("cuDevicePrimaryCtxRelease_v2", &found.release);
    look_up("cuCtxPushCurrent_v2", &found.push);
    look_up("cuCtxPopCurrent_v2", &found.pop);
    look_up("cuMemPoolCreate", &found.create_pool);
    look_up("cuMemPoolSetAttribute", &found.set_pool_attribute);
    look_up("cuMemAllocFromPoolAsync", &found.allocate);
    return found;
  }();
  return driver;
}

}  // namespace

bool PushDevice(int device) {
  const Driver& driver = TheDriver();
  CUcontext context;
  if (!driver.has_contexts() || driver.retain(&context, device) != CUDA_SUCCESS) return false;
  if (driver.push(context) == CUDA_SUCCESS) return true;
  driver.release(device);
  return false;
}

void PopDevice(int device) {
  CUcontext context;
  TheDriver().pop(&context);
  TheDriver().release(device);
}

cudaMemPool_t PoolThatKeeps(int device) {
  static std::mutex mutex;
  static auto* const pools = new std::map<int, cudaMemPool_t>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto [found, added] = pools->try_emplace(device, nullptr);
  const Driver& driver = TheDriver();
  if (!added || !driver.has_pools()) return found->second;
  CUmemPoolProps properties = {};
  properties.allocType = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  CUmemoryPool pool;
  if (driver.create_pool(&pool, &properties) != CUDA_SUCCESS) return nullptr;
  uint64_t threshold = std::numeric_limits<uint64_t>::max();
  driver.set_pool_attribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold);
  return found->second = pool;
}

cudaError_t AllocateFromPool(void** block, size_t bytes, cudaMemPool_t pool, cudaStream_t stream) {
  CUdeviceptr address = 0;
  // The two have the same numbers for what they report.
  const auto error = static_cast<cudaError_t>(TheDriver().allocate(&address, bytes, pool, stream));
  *block = reinterpret_cast<void*>(address);
  return error;
}

}  // namespace tf_adadelta::cuda
