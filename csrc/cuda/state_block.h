// A block of an accumulator in 8 bits, in the registers of a warp: to each lane belongs every
// kWarpThreads-th of its elements, so that a load of the warp takes consecutive bytes.
#ifndef TF_ADADELTA_CUDA_STATE_BLOCK_H_
#define TF_ADADELTA_CUDA_STATE_BLOCK_H_

#include <cstdint>

#include "adadelta.h"
#include "block_codes.h"
#include "cuda/compute.h"
#include "cuda/warp.h"
#include "storage.h"

namespace tf_adadelta::cuda {

// The elements of a lane.
inline constexpr int kLaneElements = kStateBlock / kWarpThreads;

// Calls `visit(lane, k, i)` for element k of each lane, which is element i of a block of `size`.
template <typename Visit>
TF_ADADELTA_INLINE void ForEachOfBlock(const Warp& warp, int size, const Visit& visit) {
  warp.ForEachLane([&](int lane) {
    TF_ADADELTA_UNROLL
    for (int k = 0; k < kLaneElements; ++k) {
      const int i = k * kWarpThreads + lane;
      if (i < size) visit(lane, k, i);
    }
  });
}

// Loaded, then shared, read and set element by element, rescaled, and stored element by element.
class StateBlock {
 public:
  // Loads what is stored for `size` elements.
  TF_ADADELTA_INLINE void Load(const Warp& warp, const uint8_t* stored, int size) {
    // By one thread, the one that stores it.
    warp.ForEachLane([&](int lane) {
      scales_[lane] = lane == 0 ? stored[0] : 0;
      for (uint8_t& code : lanes_[lane].codes) code = 0;
    });
    ForEachOfBlock(warp, size,
                   [&](int lane, int k, int i) { lanes_[lane].codes[k] = stored[1 + i]; });
  }

  // Tells all lanes the scale, which `Resolution` and `Get` need.
  TF_ADADELTA_INLINE void ShareScale(const Warp& warp) { scale_ = warp.First(scales_); }

  TF_ADADELTA_INLINE float Resolution(const Warp& warp) const {
    PerLane<uint32_t> largest;
    warp.ForEachLane([&](int lane) {
      largest[lane] = 0;
      TF_ADADELTA_UNROLL
      for (int k = 0; k < kLaneElements; ++k) {
        const uint8_t code = NumberOf(lanes_[lane].codes[k]);
        largest[lane] = code > largest[lane] ? code : largest[lane];
      }
    });
    return ResolutionOf(scale_, static_cast<uint8_t>(warp.Max(largest)));
  }

  TF_ADADELTA_INLINE float Get(int lane, int k) const {
    return LoadAnyCode(lanes_[lane].codes[k], StepOf(scale_));
  }
  TF_ADADELTA_INLINE void Set(int lane, int k, float value) { lanes_[lane].values[k] = value; }

  // Gives the block the scale for its values.
  TF_ADADELTA_INLINE void Rescale(const Warp& warp, int size) {
    PerLane<uint32_t> largest;
    warp.ForEachLane([&](int lane) { largest[lane] = 0; });
    ForEachOfBlock(warp, size, [&](int lane, int k, int) {
      const uint32_t bits = NumberBits(lanes_[lane].values[k]);
      largest[lane] = bits > largest[lane] ? bits : largest[lane];
    });
    scale_ = ScaleFor(warp.Max(largest));
  }

  // Stores element k of a lane, which is element i of the block.
  TF_ADADELTA_INLINE void Store(int lane, int k, int i, AtRandom rounding, uint8_t* stored) const {
    if (lane == 0 && k == 0) stored[0] = scale_;
    stored[1 + i] = StoreAnyCode(lanes_[lane].values[k], InverseStepOf(scale_), rounding);
  }

 private:
  struct Lane {
    uint8_t codes[kLaneElements];
    float values[kLaneElements];
  };

  PerLane<uint8_t> scales_;  // Of which that of the first lane is one.
  uint8_t scale_;
  PerLane<Lane> lanes_;
};

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_STATE_BLOCK_H_
