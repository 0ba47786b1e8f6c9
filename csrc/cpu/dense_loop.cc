// Compiled once for each instruction set, with TF_ADADELTA_DENSE_LOOP naming the function.
//
// Everything here but that function is inlined or internal: an inline library function compiled for
// AVX-512 could otherwise be the copy that the linker keeps for the whole library.
#include "cpu/dense_loop.h"

#include "adadelta.h"
#include "cpu/storage.h"

namespace tf_adadelta {
namespace {

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void Adadelta(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Hyperparameters& h) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  Storage* __restrict__ const var = static_cast<Storage*>(update.var);
  Storage* __restrict__ const accum = static_cast<Storage*>(update.accum);
  Storage* __restrict__ const accum_update = static_cast<Storage*>(update.accum_update);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  for (int64_t i = begin; i < end; ++i) {
    Compute x = Load(var[i]);
    Compute a = Load(accum[i]);
    Compute u = Load(accum_update[i]);
    AdadeltaStep<Compute>(scalars, Load(grad[i]), x, a, u);
    Store(x, &var[i]);
    Store(a, &accum[i]);
    Store(u, &accum_update[i]);
  }
}

template <typename Bits>
TF_ADADELTA_INLINE void Copy(const TensorUpdate& update, int64_t begin, int64_t end) {
  Bits* __restrict__ const var = static_cast<Bits*>(update.var);
  Bits* __restrict__ const accum = static_cast<Bits*>(update.accum);
  Bits* __restrict__ const accum_update = static_cast<Bits*>(update.accum_update);
  const Bits* __restrict__ const grad = static_cast<const Bits*>(update.grad);
  for (int64_t i = begin; i < end; ++i) {
    const Bits x = var[i];
    const Bits a = accum[i];
    const Bits u = accum_update[i];
    var[i] = x ^ grad[i];  // Or the read of one of the two could be left out.
    accum[i] = u;
    accum_update[i] = a;
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
