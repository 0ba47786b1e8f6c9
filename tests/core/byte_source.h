// What a fuzzer gives, read as numbers. Where the bytes end, everything is zero.
#ifndef TF_ADADELTA_TESTS_CORE_BYTE_SOURCE_H_
#define TF_ADADELTA_TESTS_CORE_BYTE_SOURCE_H_

#include <cstdint>
#include <cstring>
#include <limits>

class ByteSource {
 public:
  ByteSource(const uint8_t* data, size_t size) : next_(data), end_(data + size) {}

  bool empty() const { return next_ == end_; }

  // A number in [least, most]; takes as many bytes as the range needs.
  int64_t Between(int64_t least, int64_t most) {
    const uint64_t range = static_cast<uint64_t>(most) - static_cast<uint64_t>(least);
    uint64_t value = 0;
    for (uint64_t rest = range; rest != 0; rest >>= 8) value = value << 8 | Byte();
    if (range != std::numeric_limits<uint64_t>::max()) value %= range + 1;
    return static_cast<int64_t>(static_cast<uint64_t>(least) + value);
  }

  bool Bool() { return (Byte() & 1) != 0; }

  // Often a number that means something, else any bits.
  double Number() {
    static constexpr double kInfinity = std::numeric_limits<double>::infinity();
    static constexpr double kNumbers[] = {0.0,
                                          0.95,
                                          1.0,
                                          1e-7,
                                          0.5,
                                          -1.0,
                                          2.0,
                                          -0.0,
                                          kInfinity,
                                          -kInfinity,
                                          std::numeric_limits<double>::quiet_NaN(),
                                          std::numeric_limits<double>::max(),
                                          std::numeric_limits<double>::min(),
                                          std::numeric_limits<double>::denorm_min(),
                                          1e-40,
                                          1e30};
    static constexpr int kCount = sizeof(kNumbers) / sizeof(kNumbers[0]);
    const int which = static_cast<int>(Between(0, kCount + 3));
    if (which < kCount) return kNumbers[which];
    const int64_t bits =
        Between(std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
    double number;
    std::memcpy(&number, &bits, sizeof(number));
    return number;
  }

 private:
  uint8_t Byte() { return next_ == end_ ? 0 : *next_++; }

  const uint8_t* next_;
  const uint8_t* end_;
};

#endif  // TF_ADADELTA_TESTS_CORE_BYTE_SOURCE_H_
