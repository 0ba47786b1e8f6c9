// What the XLA kernel, which emits the custom call, and its handler must agree on.
#ifndef TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
#define TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_

namespace tf_adadelta {

// Operands: those of FusedAdadeltaApply, in its order (dense_inputs.h). Results: a tuple of the
// variables, accums and accum_updates, each in the buffer of its operand.
inline constexpr char kDenseCustomCall[] = "tf_adadelta_fused_adadelta_apply";

}  // namespace tf_adadelta

#endif  // TF_ADADELTA_TENSORFLOW_XLA_CUSTOM_CALL_H_
