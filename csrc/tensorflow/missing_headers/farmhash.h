// Stands in for FarmHash's header, which TensorFlow's pip package lacks: see README.md.
#ifndef TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_FARMHASH_H_
#define TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_FARMHASH_H_

#include <cstddef>
#include <cstdint>

namespace util {

struct uint128_t {
  uint64_t low, high;
};
uint32_t Fingerprint32(const char* data, size_t size);
uint64_t Fingerprint64(const char* data, size_t size);
uint128_t Fingerprint128(const char* data, size_t size);
uint64_t Uint128Low64(const uint128_t& value);
uint64_t Uint128High64(const uint128_t& value);

}  // namespace util

#endif  // TF_ADADELTA_TENSORFLOW_MISSING_HEADERS_FARMHASH_H_
