// The kernels once more, an element at a time and with no thought for speed. The arithmetic is that
// of adadelta.h, so the baseline code has to give the same bits.
#ifndef TF_ADADELTA_TESTS_CORE_REFERENCE_H_
#define TF_ADADELTA_TESTS_CORE_REFERENCE_H_

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <type_traits>
#include <vector>

#include "adadelta.h"
#include "block_codes.h"
#include "cpu/flush_subnormals.h"
#include "row_sums.h"
#include "storage.h"
#include "tensor_update.h"

namespace tf_adadelta::reference {

// The bits by which an element is rounded, of which its word has its own in the lower half where
// its index is even; `other`: those of its neighbour.
inline uint32_t RandomBitsOf(uint32_t counter, int64_t element, bool other) {
  const uint32_t word = HashWord(counter + static_cast<uint32_t>(element / 2));
  const bool upper = (element % 2 == 1) != other;
  return upper ? word >> 16 : word & 0xffffu;
}

// Stores the value of an element.
template <typename Storage, typename Compute>
void StoreElement(const Compute& value, [[maybe_unused]] uint32_t counter,
                  [[maybe_unused]] int64_t element, [[maybe_unused]] bool other, Storage* out) {
  if constexpr (kIsRandom<Storage>) {
    Store(value, AtRandom{RandomBitsOf(counter, element, other)}, out);
  } else {
    Store(value, out);
  }
}

// A row of an accumulator. All of it is read before any of it is stored.
template <typename Storage, typename State = StateOf<Storage>>
class StateRow {
 public:
  using Compute = ComputeOf<Storage>;

  StateRow(void* stored, int64_t row, int64_t row_elements)
      : stored_(static_cast<State*>(stored) + row * row_elements) {}

  Compute Get(int64_t element) const { return Load(stored_[element]); }
  void Set(int64_t element, const Compute& value, uint32_t counter) {
    StoreElement(value, counter, element, false, &stored_[element]);
  }
  void Store(uint32_t) {}
  // With the ε for the root of an element that has decayed.
  Scalars<Compute> ScalarsOf(int64_t, const Scalars<Compute>& scalars, const Compute&) const {
    return scalars;
  }

 private:
  State* stored_;
};

// One that is stored in blocks.
template <typename Storage>
class StateRow<Storage, uint8_t> {
 public:
  StateRow(void* stored, int64_t row, int64_t row_elements)
      : stored_(static_cast<uint8_t*>(stored) + row * BytesOfRow(row_elements)),
        values_(row_elements),
        resolutions_(row_elements) {
    ForEachBlock([&](uint8_t* block, int64_t begin, int64_t end) {
      uint8_t largest = 0;
      for (int64_t i = begin; i < end; ++i) {
        const uint8_t code = block[1 + i - begin];
        if (code <= kLargestCode) largest = std::max(largest, code);
        values_[i] = code == kNanCode        ? std::numeric_limits<float>::quiet_NaN()
                     : code == kInfinityCode ? kInfinity<float>
                                             : LoadCode(code) * StepOf(block[0]);
      }
      for (int64_t i = begin; i < end; ++i) resolutions_[i] = ResolutionOf(block[0], largest);
    });
  }

  float Get(int64_t element) const { return values_[element]; }
  void Set(int64_t element, float value, uint32_t) { values_[element] = value; }
  void Store(uint32_t counter) {
    ForEachBlock([&](uint8_t* block, int64_t begin, int64_t end) {
      const auto is_number = [&](int64_t i) { return ToBits(values_[i]) < 0x7f800000u; };
      uint32_t largest = 0;
      for (int64_t i = begin; i < end; ++i) {
        if (is_number(i)) largest = std::max(largest, ToBits(values_[i]));
      }
      block[0] = ScaleFor(largest);
      for (int64_t i = begin; i < end; ++i) {
        const float steps = is_number(i) ? values_[i] * InverseStepOf(block[0]) : 0.0f;
        const AtRandom rounding = {RandomBitsOf(counter, i, false)};
        const auto code = static_cast<uint8_t>(StoreCode(steps, rounding));
        block[1 + i - begin] = values_[i] != values_[i]         ? kNanCode
                               : values_[i] == kInfinity<float> ? kInfinityCode
                                                                : code;
      }
    });
  }
  Scalars<float> ScalarsOf(int64_t element, Scalars<float> scalars, float half_decay) const {
    scalars.epsilon += DecayIdle<float>(half_decay, resolutions_[element]);
    return scalars;
  }

 private:
  // Calls `visit(block, begin, end)` with where each block is stored and the elements it has.
  template <typename Visit>
  void ForEachBlock(const Visit& visit) {
    const auto elements = static_cast<int64_t>(values_.size());
    uint8_t* block = stored_;
    for (int64_t begin = 0; begin < elements; begin += kStateBlock) {
      const int64_t end = std::min(begin + kStateBlock, elements);
      visit(block, begin, end);
      block += 1 + end - begin;
    }
  }

  uint8_t* stored_;
  std::vector<float> values_;
  std::vector<float> resolutions_;
};

template <typename Storage>
void Dense(const TensorUpdate& update, const Hyperparameters& h, const Options& o, bool plain,
           double clip_factor) {
  using Compute = ComputeOf<Storage>;
  [[maybe_unused]] const FlushSubnormals flush;
  const auto s = MakeScalars<Compute>(h.learning_rate, h.rho, h.epsilon);
  const auto options = MakeOptionScalars<Compute>(o.grad_scale, clip_factor, o.clipvalue,
                                                  o.weight_decay, h.learning_rate, o.ema_momentum);
  // Of what is not in blocks all elements count as one row.
  const bool in_blocks = std::is_same_v<StateOf<Storage>, uint8_t>;
  const int64_t row_elements = in_blocks ? update.row_elements : update.count;
  for (int64_t row = 0; row * row_elements < update.count; ++row) {
    const int64_t begin = row * row_elements;
    const auto at = [&](void* array) {
      return array == nullptr ? nullptr : static_cast<Storage*>(array) + begin;
    };
    Storage* const var = at(update.var);
    Storage* const average = at(update.average);
    Storage* const grad_accum = at(update.grad_accum);
    const Storage* const grad = static_cast<const Storage*>(update.grad) + begin;
    StateRow<Storage> accum(update.accum, row, row_elements);
    StateRow<Storage> accum_update(update.accum_update, row, row_elements);
    const uint32_t counter =
        CounterOfRow(FirstCounter(update.random_seed, h.step), row, row_elements);
    const bool updates = grad_accum == nullptr || o.update;
    for (int64_t i = 0; i < row_elements; ++i) {
      Compute g = Load(grad[i]);
      if (grad_accum != nullptr) {
        g = AddGradient<Compute>(options, g, Load(grad_accum[i]));
      } else if (!plain) {
        g = options.grad_scale * g;
      }
      Compute x = Load(var[i]);
      if (updates) {
        if (grad_accum != nullptr) grad_accum[i] = {};
        if (!plain) g = ClipGradient<Compute>(options, g);
        if (!plain && options.variable_loss != 0) x = DecayVariable<Compute>(options, x);
        Compute a = accum.Get(i);
        Compute u = accum_update.Get(i);
        const auto here = accum.ScalarsOf(i, s, Compute{1});
        const Compute delta =
            AccumulateUpdate<Compute>(s, AccumulateGradient<Compute>(here, g, a), u);
        x = MoveVariable<Compute>(s, delta, x);
        StoreElement(x, counter, i, true, &var[i]);
        accum.Set(i, a, counter);
        accum_update.Set(i, u, counter);
      } else {
        StoreElement(g, counter, i, false, &grad_accum[i]);
      }
      if (average != nullptr) {
        const Compute now = Average<Compute>(options, x, Load(average[i]));
        StoreElement(now, counter, i, true, &average[i]);
      }
    }
    if (!updates) continue;
    accum.Store(counter);
    accum_update.Store(counter);
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
    StateRow<Storage> accum(update.accum, row, update.row_elements);
    StateRow<Storage> accum_update(update.accum_update, row, update.row_elements);
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
      Storage* const var = static_cast<Storage*>(update.var) + row * update.row_elements + element;
      Compute a = DecayIdle<Compute>(half_decay, accum.Get(element));
      Compute u = DecayIdle<Compute>(half_decay, accum_update.Get(element));
      const auto here = accum.ScalarsOf(element, s, half_decay);
      const Compute delta =
          AccumulateUpdate<Compute>(s, AccumulateGradient<Compute>(here, g, a), u);
      const Compute x = MoveVariable<Compute>(s, delta, Load(*var));
      StoreElement(x, counter, element, true, var);
      accum.Set(element, a, counter);
      accum_update.Set(element, u, counter);
    }
    accum.Store(counter);
    accum_update.Store(counter);
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
