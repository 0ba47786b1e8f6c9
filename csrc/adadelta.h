// The Adadelta rule for one element: the only place where the arithmetic stands.
//
// Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (2012), arXiv:1212.5701, algorithm 1, with
// the learning rate that Keras and TensorFlow add. Nothing but arithmetic is used, so `T` may be
// float or double on the host, the same in device code, or an XLA expression.
#ifndef TF_ADADELTA_ADADELTA_H_
#define TF_ADADELTA_ADADELTA_H_

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#if defined(__CUDACC__)
#define TF_ADADELTA_INLINE __host__ __device__ __forceinline__
#else
#define TF_ADADELTA_INLINE inline __attribute__((always_inline))
#endif

namespace tf_adadelta {

// a * b + c. Of floats and doubles it is rounded once where the processor can, which is everywhere
// but in the baseline code for x86-64; and no compiler may fuse what is not written so. Thus the
// kernels of the CPU and of the GPU, with options and without, compute the same bits.
template <typename T>
TF_ADADELTA_INLINE T MultiplyAdd(const T& a, const T& b, const T& c) {
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_same_v<T, float>) return __fmaf_rn(a, b, c);
  if constexpr (std::is_same_v<T, double>) return __fma_rn(a, b, c);
#elif defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  if constexpr (std::is_same_v<T, float>) return __builtin_fmaf(a, b, c);
  if constexpr (std::is_same_v<T, double>) return __builtin_fma(a, b, c);
#endif
  return a * b + c;
}

// The scalars of one step, in the type in which the step is computed.
template <typename T>
struct Scalars {
  T learning_rate;
  T rho;
  T one_minus_rho;
  T epsilon;
};

template <typename T>
inline constexpr T kInfinity = std::numeric_limits<T>::infinity();
template <typename T>
inline constexpr T kNan = std::numeric_limits<T>::quiet_NaN();

// A scalar in the type of the arithmetic. What is not a number loses its payload, so that whatever
// a step makes of bfloat16 elements has none but theirs (StoreHigh).
template <typename T>
TF_ADADELTA_INLINE T ToScalar(double value) {
  return static_cast<T>(value == value ? value : kNan<double>);
}

// The step is computed in double for double, in float for everything narrower.
template <typename T>
TF_ADADELTA_INLINE Scalars<T> MakeScalars(double learning_rate, double rho, double epsilon) {
  return {ToScalar<T>(learning_rate), ToScalar<T>(rho), ToScalar<T>(1.0 - rho),
          ToScalar<T>(epsilon)};
}

// A step in three parts, each of which takes what the one before returns, so that a kernel may run
// them one after the other over short pieces of its arrays.
//
// Together they take two roots and a division. The cheaper sqrt((u + ε) / (a + ε)) underflows once
// a exceeds u by 2^126, which a gradient of 1e16 reaches, and is no faster where memory is the
// limit (docs/design.md).

// Averages the squared gradient into `accum`; returns the gradient over the root of that average.
template <typename T>
TF_ADADELTA_INLINE T AccumulateGradient(const Scalars<T>& s, const T& grad, T& accum) {
  using std::sqrt;
  accum = MultiplyAdd<T>(s.rho, accum, s.one_minus_rho * (grad * grad));
  return grad / sqrt(accum + s.epsilon);
}

// Multiplies that by the root of the averaged squared updates, averages the square of this update
// into `accum_update`; returns the update.
template <typename T>
TF_ADADELTA_INLINE T AccumulateUpdate(const Scalars<T>& s, const T& normalized_grad,
                                      T& accum_update) {
  using std::sqrt;
  const T delta = normalized_grad * sqrt(accum_update + s.epsilon);
  accum_update = MultiplyAdd<T>(s.rho, accum_update, s.one_minus_rho * (delta * delta));
  return delta;
}

// Returns the variable, moved by that update.
template <typename T>
TF_ADADELTA_INLINE T MoveVariable(const Scalars<T>& s, const T& delta, const T& var) {
  return MultiplyAdd<T>(-s.learning_rate, delta, var);
}

// What else is done around a step, in the type in which the step is computed. What is not asked for
// has the value that changes nothing.
template <typename T>
struct OptionScalars {
  T grad_scale;     // By which a gradient is multiplied as it comes.
  T clip_factor;    // By which it is multiplied once it is accumulated.
  T clipvalue;      // The largest magnitude of its elements then.
  T variable_loss;  // The part that a variable loses before it is moved.
  T ema_momentum;
  T one_minus_ema_momentum;
};

// The smallest clipvalue that clips nothing, not even infinities: for callers whose own checks
// refuse an infinite one, such as tf.debugging.enable_check_numerics().
inline constexpr double kNoClipvalue = std::numeric_limits<double>::max();

template <typename T>
TF_ADADELTA_INLINE OptionScalars<T> MakeOptionScalars(double grad_scale, double clip_factor,
                                                      double clipvalue, double weight_decay,
                                                      double learning_rate, double ema_momentum) {
  constexpr double kNone = kNoClipvalue;
  constexpr double kUnlimited = kInfinity<double>;
  return {ToScalar<T>(grad_scale),
          ToScalar<T>(clip_factor),
          ToScalar<T>(clipvalue < kNone ? clipvalue : kUnlimited),
          ToScalar<T>(weight_decay * learning_rate),
          ToScalar<T>(ema_momentum),
          ToScalar<T>(1.0 - ema_momentum)};
}

// Adds a gradient to those since the last step.
template <typename T>
TF_ADADELTA_INLINE T AddGradient(const OptionScalars<T>& o, const T& grad, const T& accumulated) {
  return MultiplyAdd<T>(o.grad_scale, grad, accumulated);
}

// A value that is not a number stays one.
template <typename T>
TF_ADADELTA_INLINE T Clamp(const T& limit, const T& value) {
  return value < -limit ? -limit : (value > limit ? limit : value);
}

template <typename T>
TF_ADADELTA_INLINE T ClipGradient(const OptionScalars<T>& o, const T& grad) {
  return Clamp(o.clipvalue, o.clip_factor * grad);
}

template <typename T>
TF_ADADELTA_INLINE T DecayVariable(const OptionScalars<T>& o, const T& var) {
  return MultiplyAdd<T>(-o.variable_loss, var, var);
}

// The moving average of a variable.
template <typename T>
TF_ADADELTA_INLINE T Average(const OptionScalars<T>& o, const T& var, const T& average) {
  return MultiplyAdd<T>(o.ema_momentum, average, o.one_minus_ema_momentum * var);
}

// Catches up with the steps in which a gradient was zero: each of them multiplied both averages by
// ρ and left the variable alone. `half_decay` is ρ^(steps / 2), applied twice, because ρ^steps
// itself underflows while a large average times it does not.
template <typename T>
TF_ADADELTA_INLINE T DecayIdle(const T& half_decay, const T& average) {
  return average * half_decay * half_decay;
}

template <typename T>
inline constexpr T kSmallestNormal = std::numeric_limits<T>::min();

// The half_decay of a row that has caught up with `caught_up` of `now` updates, for averages that
// are decayed in `T`. Never zero nor subnormal there, so that an infinite average stays infinite. A
// row that is ahead has nothing to catch up with. The difference of any two clocks that a file may
// have brought is taken without overflow.
template <typename T>
TF_ADADELTA_INLINE double HalfDecay(double rho, int64_t now, int64_t caught_up) {
  using std::pow;
  if (now <= caught_up) return 1.0;
  constexpr double kSmallest = kSmallestNormal<T>;
  const uint64_t idle = static_cast<uint64_t>(now) - static_cast<uint64_t>(caught_up);
  const double decay = pow(rho, 0.5 * static_cast<double>(idle));
  return decay < kSmallest ? kSmallest : decay;
}

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_ADADELTA_H_
