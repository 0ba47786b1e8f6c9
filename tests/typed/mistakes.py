"""Wrong in every call: what a type checker should say so of."""

import tf_adadelta
from tf_adadelta import kernels

optimizer = tf_adadelta.Adadelta(rho="0.95")
tf_adadelta.patch_keras("keras")
tf_adadelta.from_keras(optimizer, lazy=True)
name: int = kernels.instruction_sets()[0]
