// Compiled once for each instruction set, with TF_ADADELTA_DENSE_LOOP naming the function.
//
// Everything here but that function is inlined or internal: an inline library function compiled for
// AVX-512 could otherwise be the copy that the linker keeps for the whole library.
#include "cpu/dense_loop.h"

#include "adadelta.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// The elements between the two halves of a step. Four arrays read side by side fight for the same
// lines of the first cache where their addresses are alike (as those of large allocations are);
// with two at a time they do not, and this many elements stay in that cache (docs/design.md).
constexpr int64_t kChunk = 256;

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void Adadelta(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Hyperparameters& h) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  Storage* __restrict__ const var = static_cast<Storage*>(update.var);
  Storage* __restrict__ const accum = static_cast<Storage*>(update.accum);
  Storage* __restrict__ const accum_update = static_cast<Storage*>(update.accum_update);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  alignas(64) Compute normalized_grad[kChunk];
  for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const int64_t size = end - chunk < kChunk ? end - chunk : kChunk;
    for (int64_t i = 0; i < size; ++i) {
      Compute a = Load(accum[chunk + i]);
      normalized_grad[i] = AccumulateGradient<Compute>(scalars, Load(grad[chunk + i]), a);
      Store(a, &accum[chunk + i]);
    }
    for (int64_t i = 0; i < size; ++i) {
      Compute x = Load(var[chunk + i]);
      Compute u = Load(accum_update[chunk + i]);
      ApplyUpdate<Compute>(scalars, normalized_grad[i], x, u);
      Store(x, &var[chunk + i]);
      Store(u, &accum_update[chunk + i]);
    }
  }
}

// The same loads and stores in the same order.
template <typename Bits>
TF_ADADELTA_INLINE void Copy(const TensorUpdate& update, int64_t begin, int64_t end) {
  Bits* __restrict__ const var = static_cast<Bits*>(update.var);
  Bits* __restrict__ const accum = static_cast<Bits*>(update.accum);
  Bits* __restrict__ const accum_update = static_cast<Bits*>(update.accum_update);
  const Bits* __restrict__ const grad = static_cast<const Bits*>(update.grad);
  for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const int64_t stop = end - chunk < kChunk ? end : chunk + kChunk;
    for (int64_t i = chunk; i < stop; ++i) accum[i] ^= grad[i];
    for (int64_t i = chunk; i < stop; ++i) {
      const Bits x = var[i];
      var[i] = accum_update[i];
      accum_update[i] = x;
    }
  }
}

}  // namespace

void TF_ADADELTA_DENSE_LOOP(LoopKind kind, DType dtype, const TensorUpdate& update, int64_t begin,
                            int64_t end, const Hyperparameters& h) {
  if (kind == LoopKind::kCopy) {
    switch (dtype) {
      case DType::kHalf:
      case DType::kBFloat16:
        return Copy<uint16_t>(update, begin, end);
      case DType::kFloat:
        return Copy<uint32_t>(update, begin, end);
      case DType::kDouble:
        return Copy<uint64_t>(update, begin, end);
    }
  }
  switch (dtype) {
    case DType::kHalf:
      return Adadelta<Half, float>(update, begin, end, h);
    case DType::kBFloat16:
      return Adadelta<BFloat16, float>(update, begin, end, h);
    case DType::kFloat:
      return Adadelta<float, float>(update, begin, end, h);
    case DType::kDouble:
      return Adadelta<double, double>(update, begin, end, h);
  }
}

}  // namespace tf_adadelta
