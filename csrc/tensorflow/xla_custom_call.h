// What the XLA kernel, which emits the custom call, and its handler must agree on.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
#define TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_

namespace tf_adadelta {

// Operands: the inputs of the op, in its order (inputs.h). Results: a tuple of the resources among
// them, each in the buffer of its operand.
inline constexpr char kDenseCustomCall[] = "tf_adadelta_fused_adadelta_apply";
inline constexpr char kSparseCustomCall[] = "tf_adadelta_fused_adadelta_sparse_apply";

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
