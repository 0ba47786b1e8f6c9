// The loops of the dense update one by one, so that ci/vectorised.py can read what a compiler makes
// of each.
#define TF_ADADELTA_DENSE_LOOP DenseLoopOfProbe
#include "cpu/dense_loop.cc"

namespace tf_adadelta {

#define PROBE(name, Storage)                                                                     \
  void name(const TensorUpdate& update, int64_t end, const Hyperparameters& h) {                 \
    const auto s = MakeScalars<ComputeOf<Storage>>(h.learning_rate, h.rho, h.epsilon);           \
    Adadelta<Storage, ComputeOf<Storage>, false, false, false>(update, 0, end, s, {}, false, 0,  \
                                                               false);                           \
  }                                                                                              \
  void name##Options(const TensorUpdate& update, int64_t end, const Hyperparameters& h,          \
                     const Options& o) {                                                         \
    const auto s = MakeScalars<ComputeOf<Storage>>(h.learning_rate, h.rho, h.epsilon);           \
    const auto options = MakeOptionScalars<ComputeOf<Storage>>(                                  \
        o.grad_scale, 1.0, o.clipvalue, o.weight_decay, h.learning_rate, o.ema_momentum);        \
    Adadelta<Storage, ComputeOf<Storage>, true, true, true>(update, 0, end, s, options, true, 0, \
                                                            false);                              \
  }

PROBE(ProbeFloat32, float)
PROBE(ProbeFloat64, double)
PROBE(ProbeBFloat16, PackOf<BFloat16>)
PROBE(ProbeFloat16, PackOf<Half>)
PROBE(ProbeStochasticBFloat16, PackOf<StochasticBFloat16>)
PROBE(ProbeFloatBFloat16State, FloatBFloat16State)
PROBE(ProbeFloatUInt8State, FloatUInt8State)

}  // namespace tf_adadelta
