// An array between two guards that nobody may touch: checked by value, and where the build has
// AddressSanitizer by every access.
#ifndef TF_ADADELTA_TESTS_CORE_GUARDED_ARRAY_H_
#define TF_ADADELTA_TESTS_CORE_GUARDED_ARRAY_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TF_ADADELTA_POISONS
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define TF_ADADELTA_POISONS
#endif
#if defined(TF_ADADELTA_POISONS)
#include <sanitizer/asan_interface.h>
#endif

class GuardedArray {
 public:
  // `offset` bytes past an address that suits any type.
  GuardedArray(int64_t bytes, int64_t offset)
      : bytes_(bytes), begin_(kGuard + offset), memory_(begin_ + bytes + kGuard, kPattern) {
    Poison(true);
  }
  ~GuardedArray() { Poison(false); }
  GuardedArray(const GuardedArray&) = delete;
  GuardedArray& operator=(const GuardedArray&) = delete;

  uint8_t* data() { return memory_.data() + begin_; }
  std::vector<uint8_t> bytes() { return {data(), data() + bytes_}; }

  bool GuardsAreWhole() {
    Poison(false);
    const auto whole = [](const uint8_t* begin, const uint8_t* end) {
      return std::all_of(begin, end, [](uint8_t byte) { return byte == kPattern; });
    };
    const uint8_t* const end = memory_.data() + memory_.size();
    const bool result = whole(memory_.data(), data()) && whole(data() + bytes_, end);
    Poison(true);
    return result;
  }

 private:
  static constexpr int64_t kGuard = 128;
  static constexpr uint8_t kPattern = 0xa5;

  void Poison([[maybe_unused]] bool poison) {
#if defined(TF_ADADELTA_POISONS)
    const auto set = poison ? __asan_poison_memory_region : __asan_unpoison_memory_region;
    set(memory_.data(), begin_);
    set(data() + bytes_, memory_.size() - begin_ - bytes_);
#endif
  }

  int64_t bytes_;
  int64_t begin_;
  std::vector<uint8_t> memory_;
};

#endif  // TF_ADADELTA_TESTS_CORE_GUARDED_ARRAY_H_
