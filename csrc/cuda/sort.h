// The sort of the sparse update, by CUB: apart from the kernels, because CUB takes long to compile.
#ifndef TF_ADADELTA_CUDA_SORT_H_
#define TF_ADADELTA_CUDA_SORT_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace tf_adadelta::cuda {

// Pairs to be sorted, in keys[0] and positions[0]; the other two hold as many.
struct PairBuffers {
  uint64_t* keys[2];
  int64_t* positions[2];
};

// Sets `bytes` to the temporary memory that SortPairs needs.
cudaError_t SortBytes(int64_t count, int key_bits, size_t* bytes);

// Queues the sort of the pairs by their keys, of which no more than the lowest `key_bits` are set.
// Equal keys keep their order. Afterwards keys[0] and positions[0] are the buffers with the result.
cudaError_t SortPairs(void* temporary, size_t bytes, int64_t count, int key_bits,
                      cudaStream_t stream, PairBuffers* buffers);

}  // namespace tf_adadelta::cuda

#endif  // TF_ADADELTA_CUDA_SORT_H_
