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

// `kAverage` and `kGradAccum`: whether the variable has these buffers.
template <typename Storage, typename Compute, bool kOptions, bool kAverage, bool kGradAccum>
TF_ADADELTA_INLINE void Adadelta(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Scalars<Compute>& scalars,
                                 const OptionScalars<Compute>& options) {
  Storage* __restrict__ const var = static_cast<Storage*>(update.var);
  Storage* __restrict__ const accum = static_cast<Storage*>(update.accum);
  Storage* __restrict__ const accum_update = static_cast<Storage*>(update.accum_update);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  [[maybe_unused]] Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  [[maybe_unused]] Storage* __restrict__ const grad_accum =
      static_cast<Storage*>(update.grad_accum);
  [[maybe_unused]] const bool decays = options.variable_loss != 0;
  alignas(64) Compute normalized_grad[kChunk];
  for (int64_t chunk = begin; chunk < end; chunk += kChunk) {
    const int64_t size = end - chunk < kChunk ? end - chunk : kChunk;
    for (int64_t i = 0; i < size; ++i) {
      Compute g = Load(grad[chunk + i]);
      if constexpr (kGradAccum) {
        g = AddGradient<Compute>(options, g, Load(grad_accum[chunk + i]));
        Store(Compute{0}, &grad_accum[chunk + i]);
      } else if constexpr (kOptions) {
        g = options.grad_scale * g;
      }
      if constexpr (kOptions) g = ClipGradient<Compute>(options, g);
      Compute a = Load(accum[chunk + i]);
      normalized_grad[i] = AccumulateGradient<Compute>(scalars, g, a);
      Store(a, &accum[chunk + i]);
    }
    for (int64_t i = 0; i < size; ++i) {
      Compute x = Load(var[chunk + i]);
      Compute u = Load(accum_update[chunk + i]);
      if constexpr (kOptions) x = decays ? DecayVariable<Compute>(options, x) : x;
      ApplyUpdate<Compute>(scalars, normalized_grad[i], x, u);
      Store(x, &var[chunk + i]);
      Store(u, &accum_update[chunk + i]);
      if constexpr (kAverage) {
        Store(Average<Compute>(options, x, Load(average[chunk + i])), &average[chunk + i]);
      }
    }
  }
}

// A step that does not update.
template <typename Storage, typename Compute, bool kAverage>
TF_ADADELTA_INLINE void Accumulate(const TensorUpdate& update, int64_t begin, int64_t end,
                                   const OptionScalars<Compute>& options) {
  const Storage* __restrict__ const var = static_cast<const Storage*>(update.var);
  const Storage* __restrict__ const grad = static_cast<const Storage*>(update.grad);
  Storage* __restrict__ const average = static_cast<Storage*>(update.average);
  Storage* __restrict__ const grad_accum = static_cast<Storage*>(update.grad_accum);
  for (int64_t i = begin; i < end; ++i) {
    Store(AddGradient<Compute>(options, Load(grad[i]), Load(grad_accum[i])), &grad_accum[i]);
    if constexpr (kAverage) {
      Store(Average<Compute>(options, Load(var[i]), Load(average[i])), &average[i]);
    }
  }
}

template <typename Storage, typename Compute>
TF_ADADELTA_INLINE void Dispatch(const TensorUpdate& update, int64_t begin, int64_t end,
                                 const Hyperparameters& h, const Options* options,
                                 double clip_factor) {
  const Scalars<Compute> scalars = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  if (options == nullptr) {
    return Adadelta<Storage, Compute, false, false, false>(update, begin, end, scalars, {});
  }
  const OptionScalars<Compute> o =
      MakeOptionScalars<Compute>(options->grad_scale, clip_factor, options->clipvalue,
                                 options->weight_decay, h.learning_rate, options->ema_momentum);
  const bool average = update.average != nullptr;
  if (update.grad_accum == nullptr) {
    return average ? Adadelta<Storage, Compute, true, true, false>(update, begin, end, scalars, o)
                   : Adadelta<Storage, Compute, true, false, false>(update, begin, end, scalars, o);
  }
  if (options->update) {
    return average ? Adadelta<Storage, Compute, true, true, true>(update, begin, end, scalars, o)
                   : Adadelta<Storage, Compute, true, false, true>(update, begin, end, scalars, o);
  }
  return average ? Accumulate<Storage, Compute, true>(update, begin, end, o)
                 : Accumulate<Storage, Compute, false>(update, begin, end, o);
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
                            int64_t end, const Hyperparameters& h, const Options* options,
                            double clip_factor) {
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
      return Dispatch<Half, float>(update, begin, end, h, options, clip_factor);
    case DType::kBFloat16:
      return Dispatch<BFloat16, float>(update, begin, end, h, options, clip_factor);
    case DType::kFloat:
      return Dispatch<float, float>(update, begin, end, h, options, clip_factor);
    case DType::kDouble:
      return Dispatch<double, double>(update, begin, end, h, options, clip_factor);
  }
}

}  // namespace tf_adadelta
