// What one thread of each kernel of the norms does. It runs on the host too, where the tests call
// it for every thread of a launch.
//
// The kernels, one after the other:
//
//   SquareThread  adds the squares of a chunk; the threads of a block add up to a piece of the sum
//   PieceThread   adds pieces of a tensor; the threads of a block add up to its squared norm
//
// Every sum is of the same order on every run.
#ifndef TF_ADADELTA_CUDA_NORMS_THREAD_H_
#define TF_ADADELTA_CUDA_NORMS_THREAD_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "adadelta.h"
#include "cuda/compute.h"
#include "cuda/dense.h"
#include "cuda/elements.h"
#include "cuda/launch_plan.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::cuda {

struct NormScalars {
  Scalar grad_scale;
  Scalar update;
  double* pieces;  // Of the sums, in device memory: one for each block of the launch.
};

// The launches of the first kernel.
template <bool grad_accum>
struct NormKind {
  static constexpr bool kHasGradAccum = grad_accum;

  // The streams of a tensor.
  static constexpr int kGrad = 0;
  static constexpr int kGradAccum = grad_accum ? 1 : 0;
  static constexpr int kStreams = kGradAccum + 1;

  static constexpr int kVectors = 4;
  using Scalars = NormScalars;
  using Tensor = LaunchTensor<kStreams>;
};

// The threads of a block of the second kernel, and the pieces whose loads each of them has on their
// way at once.
inline constexpr int kPieceThreads = 512;
inline constexpr int kPiecesAtOnce = 8;

// The parameters of a launch of the second kernel, which has a block for each tensor, empty or not.
struct PieceLaunch {
  static constexpr int kCapacity = 4000;

  const double* pieces;
  double* squared_norms;           // Of the tensors of this launch.
  int64_t first_piece[kCapacity];  // Of each tensor, and behind the last one.
  int32_t num_tensors;
};
static_assert(sizeof(PieceLaunch) <= 32764);

// Calls `use(kind)` with the kind of launches that these inputs are.
template <typename Use>
auto WithNormKind(const std::vector<NormInput>& inputs, const Use& use) {
  return HaveGradAccums(inputs) ? use(NormKind<true>()) : use(NormKind<false>());
}

template <typename Kind>
int64_t CountPieces(const std::vector<NormInput>& inputs, int64_t element_size) {
  int64_t pieces = 0;
  for (const NormInput& input : inputs) pieces += CountBlocks<Kind>(input.count, element_size);
  return pieces;
}

// Calls `visit(launch)` for each launch of the first kernel.
template <typename Kind, typename Visit>
void ForEachSquareLaunch(const std::vector<NormInput>& inputs, int64_t element_size,
                         const Scalar& grad_scale, const Scalar& update, double* pieces,
                         const Visit& visit,
                         int64_t max_blocks = std::numeric_limits<int32_t>::max()) {
  std::vector<typename Kind::Tensor> tensors(inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    tensors[i].streams[Kind::kGrad] = const_cast<void*>(inputs[i].grad);
    if constexpr (Kind::kHasGradAccum) {
      tensors[i].streams[Kind::kGradAccum] = const_cast<void*>(inputs[i].grad_accum);
    }
    tensors[i].count = inputs[i].count;
  }
  ForEachLaunch<Kind>(
      std::move(tensors), element_size, {grad_scale, update, nullptr},
      [&](auto launch) {
        launch.scalars.pieces = pieces;
        pieces += launch.num_blocks;
        visit(launch);
      },
      max_blocks);
}

// Calls `visit(launch)` for each launch of the second kernel.
template <typename Kind, typename Visit>
void ForEachPieceLaunch(const std::vector<NormInput>& inputs, int64_t element_size,
                        const double* pieces, double* squared_norms, const Visit& visit) {
  int64_t piece = 0;
  for (size_t begin = 0; begin < inputs.size();) {
    const size_t end = std::min(inputs.size(), begin + PieceLaunch::kCapacity - 1);
    PieceLaunch launch;
    launch.pieces = pieces;
    launch.squared_norms = squared_norms + begin;
    launch.num_tensors = static_cast<int32_t>(end - begin);
    launch.first_piece[0] = piece;
    for (size_t i = begin; i < end; ++i) {
      piece += CountBlocks<Kind>(inputs[i].count, element_size);
      launch.first_piece[i - begin + 1] = piece;
    }
    visit(launch);
    begin = end;
  }
}

template <typename Kind>
struct SquareStep {
  TF_ADADELTA_INLINE static constexpr bool IsState(int) { return false; }
  TF_ADADELTA_INLINE static constexpr bool Reads(int) { return true; }
  TF_ADADELTA_INLINE static constexpr bool Writes(int) { return false; }

  template <typename Storage>
  TF_ADADELTA_INLINE void operator()(const Storage (&element)[Kind::kStreams], uint32_t) {
    double g = grad_scale * Load(element[Kind::kGrad]);
    if constexpr (Kind::kHasGradAccum) {
      g = MultiplyAdd<double>(grad_scale, Load(element[Kind::kGrad]),
                              Load(element[Kind::kGradAccum]));
    }
    sum = MultiplyAdd<double>(g, g, sum);
  }

  double grad_scale;
  double sum = 0.0;
};

// Returns what thread `thread` adds to the piece of block `block`.
template <typename Storage, typename Kind, int kCapacity>
TF_ADADELTA_INLINE double SquareThread(const Launch<Kind, kCapacity>& launch, int32_t block,
                                       int thread) {
  if (ReadScalar(launch.scalars.update) == 0) return 0.0;
  const Chunk chunk = FindChunk(launch, block, sizeof(Storage));
  const auto step = ForEachElement<Storage, Kind::kVectors>(
      launch.tensors[chunk.tensor], chunk, thread,
      [&] { return SquareStep<Kind>{ReadScalar(launch.scalars.grad_scale)}; });
  return step.sum;
}

// Returns what thread `thread` adds to the squared norm of tensor `tensor` of the launch.
TF_ADADELTA_INLINE double PieceThread(const PieceLaunch& launch, int tensor, int thread) {
  double sum = 0.0;
  const int64_t end = launch.first_piece[tensor + 1];
  for (int64_t next = launch.first_piece[tensor] + thread; next < end;
       next += kPiecesAtOnce * kPieceThreads) {
    double pieces[kPiecesAtOnce];
    TF_ADADELTA_UNROLL
    for (int i = 0; i < kPiecesAtOnce; ++i) {
      const int64_t piece = next + i * kPieceThreads;
      pieces[i] = piece < end ? launch.pieces[piece] : 0.0;
    }
    TF_ADADELTA_UNROLL
    for (int i = 0; i < kPiecesAtOnce; ++i) sum += pieces[i];
  }
  return sum;
}

// Adds up what the threads of a block have returned, `sums[thread]`, into sums[0]: all threads, one
// after the other or at once, with `half` the half of their number, and again with half of that.
TF_ADADELTA_INLINE void AddHalf(double* sums, int half, int thread) {
  if (thread < half) sums[thread] += sums[thread + half];
}

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_NORMS_THREAD_H_
