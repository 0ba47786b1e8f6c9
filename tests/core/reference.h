// The kernels once more, an element at a time and with no thought for speed. The arithmetic is that
// of adadelta.h, so the baseline code has to give the same bits.
#ifndef TF_ADADELTA_TESTS_CORE_REFERENCE_H_
#define TF_ADADELTA_TESTS_CORE_REFERENCE_H_

#include <algorithm>
#include <cstdint>
#include <map>
#include <vector>

#include "adadelta.h"
#include "cpu/flush_subnormals.h"
#include "row_sums.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::reference {

// Stores the value of an element, of which the bits of its word that are its own are in the lower
// half where its index is even; `other`: by those of its neighbour.
template <typename Storage, typename Compute>
void StoreElement(const Compute& value, [[maybe_unused]] uint32_t counter,
                  [[maybe_unused]] int64_t element, [[maybe_unused]] bool other, Storage* out) {
  if constexpr (kIsRandom<Storage>) {
    const uint32_t word = HashWord(counter + static_cast<uint32_t>(element / 2));
    const bool upper = (element % 2 == 1) != other;
    Store(value, AtRandom{upper ? word >> 16 : word & 0xffffu}, out);
  } else {
    Store(value, out);
  }
}

template <typename Storage>
void Dense(const TensorUpdate& update, const Hyperparameters& h, const Options& o, bool plain,
           double clip_factor) {
  using Compute = ComputeOf<Storage>;
  [[maybe_unused]] const FlushSubnormals flush;
  const auto s = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  const auto options = MakeOptionScalars<Compute>(o.grad_scale, clip_factor, o.clipvalue,
                                                  o.weight_decay, h.learning_rate, o.ema_momentum);
  Storage* const var = static_cast<Storage*>(update.var);
  using State = StateOf<Storage>;
  State* const accum = static_cast<State*>(update.accum);
  State* const accum_update = static_cast<State*>(update.accum_update);
  Storage* const average = static_cast<Storage*>(update.average);
  Storage* const grad_accum = static_cast<Storage*>(update.grad_accum);
  const uint32_t counter = FirstCounter(update.random_seed, h.step);
  for (int64_t i = 0; i < update.count; ++i) {
    Compute g = Load(static_cast<const Storage*>(update.grad)[i]);
    if (grad_accum != nullptr) {
      g = AddGradient<Compute>(options, g, Load(grad_accum[i]));
    } else if (!plain) {
      g = options.grad_scale * g;
    }
    Compute x = Load(var[i]);
    if (grad_accum == nullptr || o.update) {
      if (grad_accum != nullptr) grad_accum[i] = {};
      if (!plain) g = ClipGradient<Compute>(options, g);
      if (!plain && options.variable_loss != 0) x = DecayVariable<Compute>(options, x);
      Compute a = Load(accum[i]);
      Compute u = Load(accum_update[i]);
      const Compute delta = AccumulateUpdate<Compute>(s, AccumulateGradient<Compute>(s, g, a), u);
      x = MoveVariable<Compute>(s, delta, x);
      StoreElement(x, counter, i, true, &var[i]);
      StoreElement(a, counter, i, false, &accum[i]);
      StoreElement(u, counter, i, false, &accum_update[i]);
    } else {
      StoreElement(g, counter, i, false, &grad_accum[i]);
    }
    if (average != nullptr) {
      const Compute now = Average<Compute>(options, x, Load(average[i]));
      StoreElement(now, counter, i, true, &average[i]);
    }
  }
}

// The first of the rows of a gradient by row of the variable, in their order.
template <typename Index>
std::map<int64_t, std::vector<int64_t>> Positions(const SparseTensorUpdate& update) {
  std::map<int64_t, std::vector<int64_t>> positions;
  for (int64_t p = 0; p < update.num_indices; ++p) {
    positions[static_cast<const Index*>(update.indices)[p]].push_back(p);
  }
  return positions;
}

// Adds values as row_sums.h has it, groups of kSumRows to the power of `level` first.
template <typename Compute>
void AddValues(int level, const Compute* values, int64_t count, Compute* sum) {
  if (level == 0) {
    for (int64_t i = 0; i < count; ++i) *sum += values[i];
    return;
  }
  const int64_t size = level == 1 ? kRowsOfSum<1> : kRowsOfSum<2>;
  for (; count >= size; count -= size, values += size) {
    Compute part = kNothing;
    AddValues(level - 1, values, size, &part);
    *sum += part;
  }
  AddValues(level - 1, values, count, sum);
}

template <typename Storage, typename Index>
void Sparse(const SparseTensorUpdate& update, const Hyperparameters& h) {
  using Compute = ComputeOf<Storage>;
  [[maybe_unused]] const FlushSubnormals flush;
  const auto s = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  const auto positions = Positions<Index>(update);
  for (const auto& [row, rows] : positions) {
    Compute half_decay = 1;
    if (update.clock != nullptr) {
      half_decay = static_cast<Compute>(
          HalfDecay<Compute>(h.rho, update.clock[update.rows], update.clock[row]));
    }
    const uint32_t counter =
        CounterOfRow(FirstCounter(update.random_seed, h.step), row, update.row_elements);
    for (int64_t element = 0; element < update.row_elements; ++element) {
      std::vector<Compute> values;
      for (const int64_t p : rows) {
        const int64_t at = p * update.row_elements + element;
        values.push_back(Load(static_cast<const Storage*>(update.grad)[at]));
      }
      const int64_t count = static_cast<int64_t>(values.size());
      Compute g = count < kSumRows ? values[0] : Compute{kNothing};
      if (count < kSumRows) {
        AddValues(0, values.data() + 1, count - 1, &g);
      } else {
        AddValues(kSumLevels, values.data(), count, &g);
      }
      const int64_t i = row * update.row_elements + element;
      Storage* const var = static_cast<Storage*>(update.var) + i;
      StateOf<Storage>* const accum = static_cast<StateOf<Storage>*>(update.accum) + i;
      StateOf<Storage>* const accum_update =
          static_cast<StateOf<Storage>*>(update.accum_update) + i;
      Compute a = DecayIdle<Compute>(half_decay, Load(*accum));
      Compute u = DecayIdle<Compute>(half_decay, Load(*accum_update));
      const Compute delta = AccumulateUpdate<Compute>(s, AccumulateGradient<Compute>(s, g, a), u);
      const Compute x = MoveVariable<Compute>(s, delta, Load(*var));
      StoreElement(x, counter, element, true, var);
      StoreElement(a, counter, element, false, accum);
      StoreElement(u, counter, element, false, accum_update);
    }
  }
  if (update.clock == nullptr) return;
  const int64_t now = ++update.clock[update.rows];
  for (const auto& [row, rows] : positions) update.clock[row] = now;
}

template <typename Storage>
double SquaredNorm(const NormInput& input, double grad_scale) {
  [[maybe_unused]] const FlushSubnormals flush;
  double sum = 0;
  for (int64_t i = 0; i < input.count; ++i) {
    const double g = Load(static_cast<const Storage*>(input.grad)[i]);
    const double scaled =
        input.grad_accum == nullptr
            ? grad_scale * g
            : MultiplyAdd<double>(grad_scale, g,
                                  Load(static_cast<const Storage*>(input.grad_accum)[i]));
    sum = MultiplyAdd<double>(scaled, scaled, sum);
  }
  return sum;
}

}  // namespace tf_adadelta::reference

#endif  // TF_ADADELTA_TESTS_CORE_REFERENCE_H_
