// What the XLA kernels, which emit the custom calls, and their handlers must agree on.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
#define TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_

namespace tf_adadelta {

// Operands: the inputs of the op, in its order (inputs.h). Results: of an update a tuple of the
// resources among them, each in the buffer of its operand; of the norms the norms.
inline constexpr char kDenseCustomCall[] = "tf_adadelta_fused_adadelta_apply";
inline constexpr char kSparseCustomCall[] = "tf_adadelta_fused_adadelta_sparse_apply";
inline constexpr char kNormsCustomCall[] = "tf_adadelta_fused_squared_norms";

// An attribute of the calls: the numbers of elements of the lists of inputs.
inline constexpr char kSizesAttribute[] = "sizes";

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
