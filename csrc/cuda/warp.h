// What the threads of a warp do together.
//
// On the GPU each of them runs this code for itself. On the host, where the tests call it for one
// thread after the other, the first thread of a warp does the work of all.
#ifndef TF_ADADELTA_CUDA_WARP_H_
#define TF_ADADELTA_CUDA_WARP_H_

#include <cstdint>

#include "adadelta.h"
#include "cuda/compute.h"

namespace tf_adadelta::cuda {

inline constexpr int kWarpThreads = 32;

// A value for each lane of a warp, of which a thread of the GPU has its own.
template <typename T>
class PerLane {
 public:
#if defined(__CUDA_ARCH__)
  TF_ADADELTA_INLINE T& operator[](int) { return values_[0]; }
  TF_ADADELTA_INLINE const T& operator[](int) const { return values_[0]; }

 private:
  T values_[1];
#else
  TF_ADADELTA_INLINE T& operator[](int lane) { return values_[lane]; }
  TF_ADADELTA_INLINE const T& operator[](int lane) const { return values_[lane]; }

 private:
  T values_[kWarpThreads];
#endif
};

// All threads of a warp make the same calls.
class Warp {
 public:
  TF_ADADELTA_INLINE explicit Warp(int thread) : lane_(thread & (kWarpThreads - 1)) {}

  // Whether there is anything to do for this thread.
  TF_ADADELTA_INLINE bool acts() const {
#if defined(__CUDA_ARCH__)
    return true;
#else
    return lane_ == 0;
#endif
  }

  // Calls `visit(lane)` for every lane.
  template <typename Visit>
  TF_ADADELTA_INLINE void ForEachLane(const Visit& visit) const {
#if defined(__CUDA_ARCH__)
    visit(lane_);
#else
    for (int lane = 0; lane < kWarpThreads; ++lane) visit(lane);
#endif
  }

  // The value of the first lane.
  template <typename T>
  TF_ADADELTA_INLINE T First(const PerLane<T>& values) const {
#if defined(__CUDA_ARCH__)
    return static_cast<T>(__shfl_sync(kAllLanes, uint32_t{values[0]}, 0));
#else
    return values[0];
#endif
  }

  // The largest of the values of all lanes.
  TF_ADADELTA_INLINE uint32_t Max(const PerLane<uint32_t>& values) const {
    uint32_t largest = values[0];
    const auto take = [&largest](uint32_t other) { largest = other > largest ? other : largest; };
#if defined(__CUDA_ARCH__)
    TF_ADADELTA_UNROLL
    for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
      take(__shfl_xor_sync(kAllLanes, largest, distance));
    }
#else
    for (int lane = 1; lane < kWarpThreads; ++lane) take(values[lane]);
#endif
    return largest;
  }

 private:
#if defined(__CUDA_ARCH__)
  static constexpr unsigned kAllLanes = 0xffffffffu;
#endif

  int lane_;
};

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_WARP_H_
