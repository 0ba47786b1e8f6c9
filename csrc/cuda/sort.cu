#include <cub/device/device_radix_sort.cuh>

#include "cuda/sort.h"

namespace tf_adadelta::cuda {
namespace {

cudaError_t Sort(void* temporary, size_t* bytes, int64_t count, int key_bits, cudaStream_t stream,
                 PairBuffers* buffers) {
  cub::DoubleBuffer<uint64_t> keys(buffers->keys[0], buffers->keys[1]);
  cub::DoubleBuffer<int64_t> positions(buffers->positions[0], buffers->positions[1]);
  const cudaError_t error = cub::DeviceRadixSort::SortPairs(
      temporary, *bytes, keys, positions, count, /*begin_bit=*/0, /*end_bit=*/key_bits, stream);
  *buffers = {{keys.Current(), keys.Alternate()}, {positions.Current(), positions.Alternate()}};
  return error;
}

}  // namespace

cudaError_t SortBytes(int64_t count, int key_bits, size_t* bytes) {
  PairBuffers none = {};
  return Sort(nullptr, bytes, count, key_bits, nullptr, &none);
}

cudaError_t SortPairs(void* temporary, size_t bytes, int64_t count, int key_bits,
                      cudaStream_t stream, PairBuffers* buffers) {
  return Sort(temporary, &bytes, count, key_bits, stream, buffers);
}

}  // namespace tf_adadelta::cuda
