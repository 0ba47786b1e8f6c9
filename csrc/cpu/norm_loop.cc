// Compiled once for each instruction set, with TF_ADADELTA_NORM_LOOP naming the function; see
// dense_loop.cc.
#include "cpu/norm_loop.h"

#include "adadelta.h"
#include "storage.h"

namespace tf_adadelta {
namespace {

// Sums that are kept side by side, so that a vector of them is added to at once.
constexpr int kLanes = 32;

template <typename Storage, bool kGradAccum>
TF_ADADELTA_INLINE double SumSquares(const NormInput& input, int64_t begin, int64_t end,
                                     double grad_scale) {
  const Storage* __restrict__ const grad = static_cast<const Storage*>(input.grad);
  const Storage* __restrict__ const accum = static_cast<const Storage*>(input.grad_accum);
  const auto add_square = [&](int64_t i, double& sum) __attribute__((always_inline)) {
    double g = grad_scale * Load(grad[i]);
    if constexpr (kGradAccum) g = MultiplyAdd<double>(grad_scale, Load(grad[i]), Load(accum[i]));
    sum = MultiplyAdd<double>(g, g, sum);
  };
  double sums[kLanes] = {};
  int64_t i = begin;
  for (; i <= end - kLanes; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) add_square(i + lane, sums[lane]);
  }
  double sum = 0;
  for (; i < end; ++i) add_square(i, sum);
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
      return Dispatch<BFloat16>(input, begin, end, grad_scale);
    case DType::kFloat:
      return Dispatch<float>(input, begin, end, grad_scale);
    case DType::kDouble:
      return Dispatch<double>(input, begin, end, grad_scale);
  }
  return 0;
}

}  // namespace tf_adadelta
