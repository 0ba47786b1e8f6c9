// The inner loop of the dense update, compiled once for each instruction set.
#ifndef TF_ADADELTA_CPU_DENSE_LOOP_H_
#define TF_ADADELTA_CPU_DENSE_LOOP_H_

#include <cstdint>

#include "tensor_update.h"

namespace tf_adadelta {

// What the loop does with its seven streams. `kCopy` moves the same bytes and computes nothing: the
// limit that the memory sets, for the benchmarks to measure against.
enum class LoopKind { kAdadelta, kCopy };

// Updates the elements [begin, end) of `update`, or, of accumulators that are in blocks, those
// blocks. `options` is null where there are none; `clip_factor` is that of this variable.
// `from_memory`: whether the call updates more than caches hold.
using DenseLoop = void(LoopKind kind, DType dtype, const TensorUpdate& update, int64_t begin,
                       int64_t end, const Hyperparameters& hyperparameters, const Options* options,
                       double clip_factor, bool from_memory);

DenseLoop DenseLoopBaseline;
DenseLoop DenseLoopAvx2;
DenseLoop DenseLoopAvx512;

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_CPU_DENSE_LOOP_H_
