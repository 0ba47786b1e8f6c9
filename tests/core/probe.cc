// The loops of the dense update one by one, so that ci/vectorised.py can read what a compiler makes
// of each.
#define TF_ADADELTA_DENSE_LOOP DenseLoopOfProbe
#include "cpu/dense_loop.cc"

namespace tf_adadelta {

#define PROBE(name, Storage, Compute)                                                    \
  void name(const TensorUpdate& update, int64_t end, const Scalars<Compute>& s) {        \
    Adadelta<Storage, Compute, false, false, false>(update, 0, end, s, {});              \
  }                                                                                      \
  void name##Options(const TensorUpdate& update, int64_t end, const Scalars<Compute>& s, \
                     const OptionScalars<Compute>& o) {                                  \
    Adadelta<Storage, Compute, true, true, true>(update, 0, end, s, o);                  \
  }

PROBE(ProbeFloat32, float, float)
PROBE(ProbeFloat64, double, double)
PROBE(ProbeBFloat16, BFloat16, float)

// float16 arrays are updated as floats; these are the ways there and back.
void ProbeWidenFloat16(const Half* in, int64_t size, float* out) { Widen(in, size, out); }
void ProbeNarrowFloat16(const float* in, int64_t size, Half* out) { Narrow(in, size, out); }

}  // namespace tf_adadelta
