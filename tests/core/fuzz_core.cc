// Makes calls of the CPU kernels from bytes, and stops the process at anything that is wrong.
//
// libFuzzer (ci/fuzz.py) makes up the bytes; replay.cc takes them from files. What is checked: no
// access outside the arrays; nothing written but what the call updates; the baseline code gives the
// bits of reference.h; the codes with FMA give each other's bits; no bit depends on the threads,
// nor on when, in which order or whether a helper runs.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "block_codes.h"
#include "byte_source.h"
#include "cpu/dense.h"
#include "cpu/norms.h"
#include "cpu/row_groups.h"
#include "cpu/sparse.h"
#include "guarded_array.h"
#include "partition.h"
#include "reference.h"

namespace {

using namespace tf_adadelta;

// Not assert, which a release has not.
#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                \
    }                                                                              \
  } while (false)

constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();

int64_t SizeOf(DType dtype) {
  int64_t size = 0;
  WithElement(dtype, [&](auto storage) { size = sizeof(storage); });
  return size;
}

enum Filling { kZeros, kOrdinary, kAnyBits, kTiny, kHuge, kNumFillings };

void Fill(DType dtype, Filling filling, uint64_t seed, int64_t count, uint8_t* data) {
  uint64_t bits = 2 * seed + 1;
  WithElement(dtype, [&](auto storage) {
    for (int64_t i = 0; i < count; ++i) {
      bits ^= bits << 13;
      bits ^= bits >> 7;
      bits ^= bits << 17;
      const float ordinary = static_cast<float>(static_cast<int64_t>(bits)) * 0x1p-62f;
      static constexpr float kScales[] = {0, 1, 0, 1e-37f, 1e38f};
      if (filling == kAnyBits) {
        std::memcpy(&storage, &bits, sizeof(storage));
      } else {
        Store(ordinary * kScales[filling], &storage);
      }
      std::memcpy(data + i * sizeof(storage), &storage, sizeof(storage));
    }
  });
}

// The bytes of each of some arrays.
using Contents = std::vector<std::vector<uint8_t>>;

// The arrays of a call.
class Arrays {
 public:
  // An array of numbers of a type of the kernels.
  uint8_t* New(ByteSource& source, DType dtype, int64_t count) {
    const int64_t itemsize = SizeOf(dtype);
    uint8_t* const data = New(count * itemsize, source.Between(0, 15) * itemsize);
    const auto filling = static_cast<Filling>(source.Between(0, kNumFillings - 1));
    Fill(dtype, filling, source.Between(0, 255), count, data);
    return data;
  }

  uint8_t* New(int64_t bytes, int64_t offset) {
    arrays_.push_back(std::make_unique<GuardedArray>(bytes, offset));
    return arrays_.back()->data();
  }

  Contents Read() const {
    Contents contents;
    for (const auto& array : arrays_) contents.push_back(array->bytes());
    return contents;
  }

  void Write(const Contents& contents) {
    for (size_t i = 0; i < arrays_.size(); ++i) {
      std::copy(contents[i].begin(), contents[i].end(), arrays_[i]->data());
    }
  }

  bool GuardsAreWhole() const {
    return std::all_of(arrays_.begin(), arrays_.end(),
                       [](const auto& array) { return array->GuardsAreWhole(); });
  }

 private:
  std::vector<std::unique_ptr<GuardedArray>> arrays_;
};

// Whether two arrays hold the same bits, or both something that is not a number.
bool SameNumbers(DType dtype, const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  if (a == b) return true;
  bool same = a.size() == b.size();
  WithElement(dtype, [&](auto storage) {
    for (size_t i = 0; same && i < a.size(); i += sizeof(storage)) {
      if (std::memcmp(a.data() + i, b.data() + i, sizeof(storage)) == 0) continue;
      for (const auto* array : {&a, &b}) {
        std::memcpy(&storage, array->data() + i, sizeof(storage));
        const auto value = Load(storage);
        if (value == value) same = false;
      }
    }
  });
  return same;
}

// The threads that a door may hand in: helpers that run at once, on threads of their own, only
// after the call, or not at all.
class Helpers {
 public:
  explicit Helpers(ByteSource& source)
      : num_threads_(static_cast<int>(source.Between(1, 5))),
        kind_(static_cast<Kind>(source.Between(0, kNumKinds - 1))) {}

  void Call(const std::function<void(const Workers&)>& call) {
    call({num_threads_, [this](std::function<void()> task) {
            if (kind_ == kAtOnce) task();
            if (kind_ == kOnThreads) threads_.emplace_back(std::move(task));
            if (kind_ == kAfterwards) tasks_.push_back(std::move(task));
          }});
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
    for (const auto& task : tasks_) task();
    tasks_.clear();
  }

 private:
  enum Kind { kAtOnce, kOnThreads, kAfterwards, kNever, kNumKinds };

  int num_threads_;
  Kind kind_;
  std::vector<std::thread> threads_;
  std::vector<std::function<void()>> tasks_;
};

// Whether the byte of an array, both by their number, is one that the call may write.
using MayChange = std::function<bool(size_t array, size_t byte)>;

// Runs a call with each instruction set on the same values and compares what comes out. `dtypes`
// has one for each array, nothing for whole numbers.
void CheckCalls(ByteSource& source, Arrays& arrays, const std::vector<std::optional<DType>>& dtypes,
                const MayChange& may_change,
                const std::function<void(const Workers&, const InstructionSet&)>& call,
                const std::function<void()>& reference) {
  const Contents before = arrays.Read();
  reference();
  const Contents expected = arrays.Read();
  Helpers helpers(source);
  Contents fused;
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (!set.supported()) continue;
    arrays.Write(before);
    helpers.Call([&](const Workers& workers) { call(workers, set); });
    CHECK(arrays.GuardsAreWhole());
    Contents after = arrays.Read();
    const bool baseline = set.name == std::string("baseline");
    const Contents& other = baseline ? expected : fused.empty() ? after : fused;
    for (size_t i = 0; i < after.size(); ++i) {
      CHECK(dtypes[i] ? SameNumbers(*dtypes[i], after[i], other[i]) : after[i] == other[i]);
      for (size_t byte = 0; byte < after[i].size(); ++byte) {
        CHECK(after[i][byte] == before[i][byte] || may_change(i, byte));
      }
    }
    if (!baseline) fused = std::move(after);
  }
}

// All but the step.
void MakeHyperparameters(ByteSource& source, Hyperparameters* h) {
  h->learning_rate = 1.0;
  h->rho = 0.95;
  h->epsilon = 1e-7;
  if (source.Bool()) return;
  h->learning_rate = source.Number();
  h->rho = source.Number();
  h->epsilon = source.Number();
}

DType MakeDType(ByteSource& source) { return static_cast<DType>(source.Between(0, 3)); }

// How the variables of a call are stored; of what is rounded at random, the step too.
DType MakeStorage(ByteSource& source, Hyperparameters* h) {
  const DType dtype = MakeDType(source);
  if (dtype != DType::kBFloat16 && dtype != DType::kFloat) return dtype;
  const int64_t how = source.Between(0, 3);
  if (how % 2 == 0) return dtype;
  h->step = source.Between(kLeast, kMost);
  if (dtype == DType::kBFloat16) return DType::kStochasticBFloat16;
  return how == 1 ? DType::kFloatBFloat16State : DType::kFloatUInt8State;
}

bool IsRandom(DType dtype) {
  return dtype == DType::kStochasticBFloat16 || dtype == DType::kFloatBFloat16State ||
         dtype == DType::kFloatUInt8State;
}

int64_t MakeSeed(ByteSource& source, DType dtype) {
  return IsRandom(dtype) ? source.Between(kLeast, kMost) : 0;
}

// What the accumulators of variables that are stored so are arrays of; of bytes, nothing.
std::optional<DType> StateOf(DType dtype) {
  if (dtype == DType::kFloatUInt8State) return std::nullopt;
  return dtype == DType::kFloatBFloat16State ? DType::kBFloat16 : dtype;
}

// What is stored for the row of an accumulator.
int64_t StateBytes(DType dtype, int64_t row_elements) {
  const std::optional<DType> state = StateOf(dtype);
  return state ? row_elements * SizeOf(*state) : BytesOfRow(row_elements);
}

// An accumulator of `rows` rows.
uint8_t* NewState(ByteSource& source, Arrays& arrays, DType dtype, int64_t rows,
                  int64_t row_elements) {
  if (const auto state = StateOf(dtype)) return arrays.New(source, *state, rows * row_elements);
  const int64_t bytes = rows * StateBytes(dtype, row_elements);
  uint8_t* const data = arrays.New(bytes, source.Between(0, 63));
  // Also codes that are no numbers; or small scales, beside which ε counts; or all zero.
  const int64_t codes = source.Between(1, 256), scales = source.Between(1, 256);
  uint64_t bits = 2 * source.Between(0, 255) + 1;
  for (int64_t i = 0; i < bytes; ++i) {
    bits = HashLong(bits);
    const int64_t in_row = i % StateBytes(dtype, row_elements);
    const bool is_scale = in_row % (kStateBlock + 1) == 0;
    data[i] = static_cast<uint8_t>(bits % (is_scale ? scales : codes));
  }
  return data;
}

// Calls `use(storage)` with a value of what variables are stored as that are updated.
template <typename Use>
void WithUpdated(DType dtype, const Use& use) {
  if (dtype == DType::kFloatUInt8State) return use(FloatUInt8State{});
  WithStorage(dtype, use);
}

// Mostly around what the loops count in: vectors, tiles, chunks, pieces, blocks.
int64_t MakeCount(ByteSource& source) {
  static constexpr int64_t kCounts[] = {0, 32, 64, 256, 512, 768, 8 * 1024, 32 * 1024};
  const int64_t size = source.Between(0, 9);
  if (size > 7) return source.Between(0, 2000);
  return std::max<int64_t>(0, kCounts[size] + source.Between(-3, 3));
}

void Dense(ByteSource& source) {
  Hyperparameters h;
  const DType dtype = MakeStorage(source, &h);
  const int64_t num_variables = source.Between(0, 6);
  const bool averages = source.Bool(), grad_accums = source.Bool();
  Arrays arrays;
  std::vector<TensorUpdate> updates;
  std::vector<double> factors;
  int64_t total = 0;
  for (int64_t i = 0; i < num_variables; ++i) {
    int64_t count = total > 100'000 ? source.Between(0, 70) : MakeCount(source);
    int64_t rows = 1;
    if (dtype == DType::kFloatUInt8State) {
      rows = count == 0 ? 0 : source.Between(1, count);
      count = rows == 0 ? 0 : count / rows * rows;
    }
    const int64_t row_elements = rows == 0 ? 0 : count / rows;
    total += count;
    const auto array = [&] { return arrays.New(source, dtype, count); };
    const auto state = [&] { return NewState(source, arrays, dtype, rows, row_elements); };
    TensorUpdate update = {array(), state(), state(), array(), count};
    update.row_elements = row_elements;
    update.random_seed = MakeSeed(source, dtype);
    if (averages) update.average = array();
    if (grad_accums) update.grad_accum = array();
    updates.push_back(update);
    factors.push_back(source.Number());
  }
  MakeHyperparameters(source, &h);
  Options options;
  if (source.Bool()) {
    options = {source.Number(), source.Bool(),   source.Bool() ? factors.data() : nullptr,
               source.Number(), source.Number(), source.Number()};
  }
  const bool plain = IsPlain(updates, options);
  const size_t arrays_each = 4 + (averages ? 1 : 0) + (grad_accums ? 1 : 0);
  std::vector<std::optional<DType>> dtypes(arrays_each * num_variables, dtype);
  for (size_t i = 0; i < dtypes.size(); ++i) {
    if (i % arrays_each == 1 || i % arrays_each == 2) dtypes[i] = StateOf(dtype);
  }
  CheckCalls(
      source, arrays, dtypes, [&](size_t array, size_t) { return array % arrays_each != 3; },
      [&](const Workers& workers, const InstructionSet& set) {
        DenseUpdate(dtype, updates, h, options, workers, LoopKind::kAdadelta, set);
      },
      [&] {
        for (size_t i = 0; i < updates.size(); ++i) {
          WithUpdated(dtype, [&](auto storage) {
            reference::Dense<decltype(storage)>(updates[i], h, options, plain,
                                                options.clip_factors ? factors[i] : 1.0);
          });
        }
      });
}

void Copy(ByteSource& source) {
  const DType dtype = MakeDType(source);
  const int64_t count = MakeCount(source);
  Arrays arrays;
  const auto array = [&] { return arrays.New(source, dtype, count); };
  const TensorUpdate update = {array(), array(), array(), array(), count};
  const Contents before = arrays.Read();
  Helpers helpers(source);
  helpers.Call([&](const Workers& workers) {
    DenseUpdate(dtype, {update}, {}, {}, workers, LoopKind::kCopy);
  });
  const Contents after = arrays.Read();
  CHECK(arrays.GuardsAreWhole());
  CHECK(after[0] == before[2] && after[1] == before[3] && after[2] == before[1]);
  CHECK(after[3] == before[3]);
}

int64_t MakeIndex(ByteSource& source, int64_t rows, bool may_be_bad) {
  if (may_be_bad && source.Between(0, 15) == 0) return source.Between(kLeast, kMost);
  return source.Between(0, std::max<int64_t>(rows - 1, 0));
}

template <typename Index>
bool FirstBad(const SparseTensorUpdate& update, int64_t* position) {
  for (int64_t i = 0; i < update.num_indices; ++i) {
    const Index index = static_cast<const Index*>(update.indices)[i];
    if (index >= 0 && index < update.rows) continue;
    *position = i;
    return true;
  }
  return false;
}

template <typename Index>
void Sparse(ByteSource& source, IndexType index_type) {
  Hyperparameters h;
  const DType dtype = MakeStorage(source, &h);
  const int64_t num_variables = source.Between(0, 4);
  const bool clocks = source.Bool(), may_be_bad = source.Bool();
  Arrays arrays;
  std::vector<std::optional<DType>> dtypes;
  std::vector<SparseTensorUpdate> updates;
  for (int64_t i = 0; i < num_variables; ++i) {
    const int64_t row_elements =
        source.Between(0, 3) == 0 ? source.Between(0, 700) : source.Between(0, 9);
    const int64_t rows = source.Between(0, row_elements > 9 ? 40 : 300);
    // Some rows have so many gradients that they are summed in groups.
    const bool crowded = row_elements < 4 && source.Between(0, 3) == 0;
    const int64_t most = rows == 0 && !may_be_bad ? 0 : crowded ? 9000 : 60;
    const int64_t num_indices = source.Between(0, most);
    const auto table = [&] { return arrays.New(source, dtype, rows * row_elements); };
    SparseTensorUpdate update;
    update.var = table();
    const auto state = [&] { return NewState(source, arrays, dtype, rows, row_elements); };
    update.accum = state();
    update.accum_update = state();
    update.grad = arrays.New(source, dtype, num_indices * row_elements);
    dtypes.insert(dtypes.end(), {dtype, StateOf(dtype), StateOf(dtype), dtype});
    Index* const indices = reinterpret_cast<Index*>(
        arrays.New(num_indices * sizeof(Index), source.Between(0, 3) * sizeof(Index)));
    dtypes.push_back(std::nullopt);
    for (int64_t p = 0; p < num_indices; ++p) {
      // The bytes do not suffice for all of a crowd.
      indices[p] =
          p < 60 ? static_cast<Index>(MakeIndex(source, rows, may_be_bad)) : indices[p % 59];
    }
    update.indices = indices;
    update.clock = nullptr;
    if (clocks) {
      update.clock = reinterpret_cast<int64_t*>(arrays.New((rows + 1) * sizeof(int64_t), 0));
      dtypes.push_back(std::nullopt);
      const bool any = source.Bool();
      for (int64_t r = 0; r <= rows; ++r) {
        update.clock[r] = any ? source.Between(kLeast, kMost - 1) : source.Between(0, 3000);
      }
    }
    update.rows = rows;
    update.row_elements = row_elements;
    update.num_indices = num_indices;
    update.random_seed = MakeSeed(source, dtype);
    updates.push_back(update);
  }
  MakeHyperparameters(source, &h);

  const std::optional<BadIndex> bad = FindBadIndex(index_type, updates);
  for (size_t i = 0; i < updates.size(); ++i) {
    int64_t position;
    if (!FirstBad<Index>(updates[i], &position)) continue;
    CHECK(bad && bad->variable == i && bad->position == position);
    CHECK(bad->index == static_cast<const Index*>(updates[i].indices)[position]);
    CHECK(bad->Describe().find("indices[" + std::to_string(i) + "]") == 0);
    return;  // No door goes on with it.
  }
  CHECK(!bad);
  std::vector<std::vector<bool>> named;
  for (const SparseTensorUpdate& update : updates) {
    named.emplace_back(update.rows + 1, false);
    named.back()[update.rows] = true;  // The last of a clock counts each update.
    for (int64_t p = 0; p < update.num_indices; ++p) {
      named.back()[static_cast<const Index*>(update.indices)[p]] = true;
    }
  }
  const size_t arrays_each = clocks ? 6 : 5;
  const auto may_change = [&](size_t array, size_t byte) {
    const size_t i = array / arrays_each, role = array % arrays_each;
    if (role == 3 || role == 4) return false;
    const int64_t elements = updates[i].row_elements;
    const size_t row_bytes = role == 5                ? sizeof(int64_t)
                             : role == 1 || role == 2 ? StateBytes(dtype, elements)
                                                      : elements * SizeOf(dtype);
    return static_cast<bool>(named[i][byte / row_bytes]);
  };
  CheckCalls(
      source, arrays, dtypes, may_change,
      [&](const Workers& workers, const InstructionSet& set) {
        SparseUpdate(dtype, index_type, updates, h, workers, set);
      },
      [&] {
        for (const SparseTensorUpdate& update : updates) {
          WithUpdated(
              dtype, [&](auto storage) { reference::Sparse<decltype(storage), Index>(update, h); });
        }
      });
}

void Norms(ByteSource& source) {
  const DType dtype = MakeDType(source);
  const int64_t num_gradients = source.Between(0, 6);
  const bool grad_accums = source.Bool();
  Arrays arrays;
  std::vector<NormInput> inputs;
  for (int64_t i = 0; i < num_gradients; ++i) {
    const int64_t count = MakeCount(source);
    const auto array = [&] { return arrays.New(source, dtype, count); };
    inputs.push_back({array(), grad_accums ? array() : nullptr, count});
  }
  const double grad_scale = source.Number();
  const Contents before = arrays.Read();
  Helpers helpers(source);
  std::vector<uint8_t> fused;
  for (const InstructionSet& set : CompiledInstructionSets()) {
    if (!set.supported()) continue;
    std::vector<double> norms(num_gradients, -1.0);
    helpers.Call([&](const Workers& workers) {
      SquaredNorms(dtype, inputs, grad_scale, norms.data(), workers, set);
    });
    CHECK(arrays.GuardsAreWhole() && arrays.Read() == before);
    const auto* const begin = reinterpret_cast<const uint8_t*>(norms.data());
    const std::vector<uint8_t> bytes(begin, begin + norms.size() * sizeof(double));
    if (set.name == std::string("baseline")) {
      for (int64_t i = 0; i < num_gradients; ++i) {
        WithStorage(dtype, [&](auto storage) {
          const double expected = reference::SquaredNorm<decltype(storage)>(inputs[i], grad_scale);
          CHECK(std::isnan(norms[i]) == std::isnan(expected));
          // The order of the sums decides whether the largest numbers overflow.
          if (std::isnan(expected) || expected > 1e307) return;
          CHECK(std::abs(norms[i] - expected) <= 1e-11 * expected);
        });
      }
    } else {
      CHECK(fused.empty() || SameNumbers(DType::kDouble, bytes, fused));
      fused = bytes;
    }
  }
}

template <typename Index>
void Groups(ByteSource& source, IndexType type) {
  const int64_t num_indices = source.Between(0, 500);
  const bool large = source.Bool();
  std::vector<Index> indices;
  for (int64_t i = 0; i < num_indices; ++i) {
    indices.push_back(
        static_cast<Index>(source.Between(0, large ? std::numeric_limits<Index>::max() : 5000)));
  }
  const RowGroups groups = GroupRows(type, indices.data(), num_indices);
  std::vector<int64_t> positions(num_indices);
  std::iota(positions.begin(), positions.end(), 0);
  std::stable_sort(positions.begin(), positions.end(),
                   [&](int64_t a, int64_t b) { return indices[a] < indices[b]; });
  CHECK(groups.positions == positions);
  CHECK(groups.begins.size() == groups.rows.size() + 1 && groups.begins.back() == num_indices);
  CHECK(std::is_sorted(groups.begins.begin(), groups.begins.end()));
  for (size_t i = 0; i < groups.rows.size(); ++i) {
    CHECK(i == 0 || groups.rows[i - 1] < groups.rows[i]);
    CHECK(groups.begins[i] < groups.begins[i + 1]);
    for (int64_t p = groups.begins[i]; p < groups.begins[i + 1]; ++p) {
      CHECK(indices[positions[p]] == groups.rows[i]);
    }
  }
}

void Pieces(ByteSource& source) {
  std::vector<int64_t> counts;
  const int64_t num_tensors = source.Between(0, 40);
  for (int64_t i = 0; i < num_tensors; ++i) {
    counts.push_back(source.Between(0, 7) == 0 ? source.Between(0, int64_t{1} << 56)
                                               : source.Between(0, 300));
  }
  const int64_t block_elements = source.Between(1, 512) * Partition::kTileElements;
  const Partition partition(counts, block_elements);
  const int64_t num_blocks = partition.num_blocks();
  const bool all = num_blocks <= 2000;
  int64_t tensor = -1, reached = 0;
  for (int64_t i = 0; i < (all ? num_blocks : 50); ++i) {
    const int64_t block = all ? i : source.Between(0, num_blocks - 1);
    int64_t tiles = 0;
    partition.ForEachPiece(block, [&](size_t t, int64_t begin, int64_t end) {
      CHECK(t < counts.size() && 0 <= begin && begin < end && end <= counts[t]);
      CHECK(begin % Partition::kTileElements == 0);
      CHECK(end == counts[t] || end % Partition::kTileElements == 0);
      tiles += (end - begin + Partition::kTileElements - 1) / Partition::kTileElements;
      if (!all) return;
      // The pieces follow one another, and leave out empty tensors only.
      if (begin == 0) {
        CHECK(tensor < 0 || reached == counts[tensor]);
        while (++tensor < static_cast<int64_t>(t)) CHECK(counts[tensor] == 0);
      } else {
        CHECK(begin == reached);
      }
      CHECK(tensor == static_cast<int64_t>(t));
      reached = end;
    });
    CHECK(tiles <= block_elements / Partition::kTileElements);
    CHECK(tiles > 0);
    CHECK(block == num_blocks - 1 || tiles == block_elements / Partition::kTileElements);
  }
  if (!all) return;
  CHECK(tensor < 0 || reached == counts[tensor]);
  while (++tensor < num_tensors) CHECK(counts[tensor] == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ByteSource source(data, size);
  switch (source.Between(0, 7)) {
    case 0:
    case 1:
      Dense(source);
      break;
    case 2:
      Sparse<int32_t>(source, IndexType::kInt32);
      break;
    case 3:
      Sparse<int64_t>(source, IndexType::kInt64);
      break;
    case 4:
      Norms(source);
      break;
    case 5:
      source.Bool() ? Groups<int32_t>(source, IndexType::kInt32)
                    : Groups<int64_t>(source, IndexType::kInt64);
      break;
    case 6:
      Pieces(source);
      break;
    default:
      Copy(source);
  }
  return 0;
}
