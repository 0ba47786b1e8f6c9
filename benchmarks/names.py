"""What the contestants and the ways to execute them are called."""

NUMPY = "NumPy"
EAGER = "eager"
FUNCTION = "tf.function"
JIT = "jit_compile"
TF_KERAS_EAGER = "tf_keras eager"
TF_KERAS_FUNCTION = "tf_keras tf.function"
LEGACY_EAGER = "legacy eager"
LEGACY_FUNCTION = "legacy tf.function"
FIT_FUNCTION = "fit tf.function"
FIT_JIT = "fit jit_compile"

LIMIT = "limit"
FUSED_PREFIX = "fused "
_MODES = (EAGER, FUNCTION, JIT, TF_KERAS_EAGER, TF_KERAS_FUNCTION, LEGACY_EAGER, LEGACY_FUNCTION)
FUSED = {
    NUMPY: f"{FUSED_PREFIX}(NumPy)",
    **{mode: FUSED_PREFIX + mode for mode in (*_MODES, FIT_FUNCTION, FIT_JIT)},
}
"""The fused contestant of each mode."""

KERAS = {mode: f"Keras {mode}" for mode in (EAGER, FUNCTION, JIT, FIT_FUNCTION, FIT_JIT)}
"""Keras's optimizer in each mode."""

STOCK_OP = "ResourceApplyAdadelta"

LOOP = "PyTorch loop"
FOREACH = "PyTorch foreach"
COMPILED = "PyTorch torch.compile"
OPTAX = "Optax jax.jit"

STOCK_CLASSIC = {
    TF_KERAS_EAGER: TF_KERAS_EAGER,
    TF_KERAS_FUNCTION: TF_KERAS_FUNCTION,
    LEGACY_EAGER: "tf_keras legacy eager",
    LEGACY_FUNCTION: "tf_keras legacy tf.function",
}
"""The contestants of tf_keras; its legacy class calls ResourceApplyAdadelta."""
