// Compiled once for each instruction set, with TF_ADADELTA_NORM_LOOP naming the function; see
// dense_loop.cc.
#include "cpu/norm_loop.h"

#include "adadelta.h"
#include "cpu/packs.h"

namespace tf_adadelta {
namespace {

// Sums that are kept side by side, so that a vector of them is added to at once.
constexpr int kLanes = 32;

// The values of kLanes elements.
template <typename Element>
struct Lanes {
  explicit TF_ADADELTA_INLINE Lanes(const Element* elements) : elements(elements) {}
  TF_ADADELTA_INLINE ComputeOf<Element> operator[](int64_t i) const { return Load(elements[i]); }

  const Element* elements;
};

// float16 is made floats in packs, the others an element at a time, which is faster.
template <>
struct Lanes<Half> {
  explicit TF_ADADELTA_INLINE Lanes(const Half* halves) {
    ForEachPack<Half>(kLanes, [&](int64_t i, auto left) __attribute__((always_inline)) {
      Unpack(LoadPack(halves + i, left), values + i);
    });
  }
  TF_ADADELTA_INLINE float operator[](int64_t i) const { return values[i]; }

  alignas(64) float values[kLanes];
};

template <typename Element, bool kGradAccum>
TF_ADADELTA_INLINE double SumSquares(const NormInput& input, int64_t begin, int64_t end,
                                     double grad_scale) {
  const Element* __restrict__ const grad = static_cast<const Element*>(input.grad);
  [[maybe_unused]] const Element* __restrict__ const accum =
      static_cast<const Element*>(input.grad_accum);
  const auto add_square = [&](double g, double a, double& sum) __attribute__((always_inline)) {
    g = kGradAccum ? MultiplyAdd<double>(grad_scale, g, a) : grad_scale * g;
    sum = MultiplyAdd<double>(g, g, sum);
  };
  double sums[kLanes] = {};
  int64_t i = begin;
  for (; i <= end - kLanes; i += kLanes) {
    const Lanes<Element> g(grad + i);
    if constexpr (kGradAccum) {
      const Lanes<Element> a(accum + i);
      for (int lane = 0; lane < kLanes; ++lane) add_square(g[lane], a[lane], sums[lane]);
    } else {
      for (int lane = 0; lane < kLanes; ++lane) add_square(g[lane], 0, sums[lane]);
    }
  }
  double sum = 0;
  for (; i < end; ++i) add_square(Load(grad[i]), kGradAccum ? Load(accum[i]) : 0, sum);
  for (int lane = 0; lane < kLanes; ++lane) sum += sums[lane];
  return sum;
}

template <typename Storage>
TF_ADADELTA_INLINE double Dispatch(const NormInput& input, int64_t begin, int64_t end,
                                   double grad_scale) {
  return input.grad_accum != nullptr ? SumSquares<Storage, true>(input, begin, end, grad_scale)
                                     : SumSquares<Storage, false>(input, begin, end, grad_scale);
}

}  // namespace

double TF_ADADELTA_NORM_LOOP(DType dtype, const NormInput& input, int64_t begin, int64_t end,
                             double grad_scale) {
  switch (dtype) {
    case DType::kHalf:
      return Dispatch<Half>(input, begin, end, grad_scale);
    case DType::kBFloat16:
    case DType::kStochasticBFloat16:
      return Dispatch<BFloat16>(input, begin, end, grad_scale);
    case DType::kFloat:
    case DType::kFloatBFloat16State:
    case DType::kFloatUInt8State:
      return Dispatch<float>(input, begin, end, grad_scale);
    case DType::kDouble:
      return Dispatch<double>(input, begin, end, grad_scale);
  }
  return 0;
}

}  // namespace tf_adadelta
