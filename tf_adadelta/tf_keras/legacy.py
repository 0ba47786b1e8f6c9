"""The optimizer for `tf_keras.optimizers.legacy`."""

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras

from tf_adadelta import _replicas
from tf_adadelta._dispatch import Dispatcher, StockUpdate


@tf_keras.saving.register_keras_serializable(package="tf_adadelta", name="legacy.Adadelta")
class Adadelta(tf_keras.optimizers.legacy.Adadelta):
    """`tf_keras.optimizers.legacy.Adadelta` with the update fused into one pass over memory.

    Arguments, defaults, variables, their order and names, configuration and numerics are those of
    `tf_keras.optimizers.legacy.Adadelta`, the `OptimizerV2` that TensorFlow 2.0 to 2.10 had as
    [tf.keras.optimizers.Adadelta](https://www.tensorflow.org/versions/r2.10/api_docs/python/tf/keras/optimizers/Adadelta);
    checkpoints of either load into the other. The update of all variables of one dtype on one
    device is one call of `tf_adadelta.ops.fused_adadelta_apply` (`fused_adadelta_sparse_apply` for
    sparse gradients), in eager execution, in `tf.function`, with `jit_compile=True` and in graphs
    that a session runs. The arithmetic is done
    in float32 for float16, bfloat16 and float32 variables and in float64 for float64 ones, with
    hyperparameters of that precision, and stored back once. Under a `tf.distribute` strategy there
    is such a call on each device that has variables.

    What the fused ops do not serve takes the stock update, with one warning that says why: devices
    other than the CPU and (in a build with CUDA) the GPU, servers that have not loaded the ops, and
    `jit_compile=True` before TensorFlow 2.20. With the environment variable `TF_ADADELTA_STRICT=1`
    that is a `RuntimeError` instead.

    Args:
        learning_rate: A scalar tensor, a float, a callable without arguments, or a
            `tf_keras.optimizers.schedules.LearningRateSchedule`. Defaults to 0.001. The original
            paper has 1.0.
        rho: A scalar tensor or a float: the decay rate of both averages. Defaults to 0.95.
        epsilon: A scalar tensor or a float, added inside both square roots; 0 means
            `tf_keras.backend.epsilon()`. Defaults to 1e-7.
        name: The prefix of the names of the operations. Defaults to "Adadelta".
        sparse_update: "lazy": rows without a gradient do not change, as the stock class has it, and
            a step costs no more than the rows that it touches. "exact": a sparse gradient has the
            result of the dense one, by the dense update. Either way duplicates are summed first.
        **kwargs: As `tf_keras.optimizers.legacy.Adadelta` has them: `clipvalue`, `clipnorm` or
            `global_clipnorm`, `decay` for time-inverse decay of the learning rate, and `lr` for
            `learning_rate`.

    Raises:
        TypeError: An argument is unknown.
        ValueError: A keyword argument is negative, or both `clipnorm` and `global_clipnorm` are
            given.
        tf.errors.InvalidArgumentError: In `apply_gradients`: a gradient has another shape than its
            variable. No variable has then been changed.
        RuntimeError: In `apply_gradients`: a variable with a constraint has a sparse gradient, or
            something is not served and `TF_ADADELTA_STRICT=1`. No variable has then been changed.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> optimizer = tf_adadelta.tf_keras.legacy.Adadelta(learning_rate=1.0)
        >>> optimizer.minimize(loss, var_list=[variable])
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.95,
        epsilon: Any = 1e-7,
        name: str = "Adadelta",
        sparse_update: str = "lazy",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, rho, epsilon, name, **kwargs)
        self.start_fused(sparse_update)

    def start_fused(self, sparse_update: str = "lazy") -> None:
        """Sets up what this class has besides the attributes of the stock one.

        Args:
            sparse_update: As the constructor has it.
        """
        self._sparse_update = sparse_update
        self._dispatcher = Dispatcher(
            self._name, self._slots_of, sparse_update, StockUpdate("lazy")
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration; that of the stock class, unless `sparse_update` is "exact"."""
        config = super().get_config()
        if self._sparse_update != "lazy":
            config["sparse_update"] = self._sparse_update
        return config

    def _slots_of(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        return self.get_slot(variable, "accum_grad"), self.get_slot(variable, "accum_var")

    @tf.autograph.experimental.do_not_convert  # A strategy's merge_call asks for it.
    def _distributed_apply(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: Sequence[tuple[Any, tf.Variable]],
        apply_state: Mapping[tuple[str, tf.DType], Mapping[str, Any]],
        name: str | None,
    ) -> Any:
        stock = super()._distributed_apply
        for grad, variable in grads_and_vars:
            if isinstance(grad, tf.IndexedSlices) and variable.constraint is not None:
                # Raises the error, with nothing written yet.
                return stock(distribution, [(grad, variable)], apply_state, name)
        grads, variables = zip(*grads_and_vars)
        updates, unserved = self._dispatcher.apply(
            variables,
            grads,
            lambda device, dtype: self._hyperparameters(device, dtype, apply_state),
        )
        served = set(range(len(variables))).difference(unserved)
        with tf.control_dependencies(updates):
            for position in sorted(served):
                variable = variables[position]
                if variable.constraint is not None:
                    updates += _constrain(variable)
        # The stock method goes on with the other variables and the iteration, which it returns.
        with tf.control_dependencies(updates):
            left = [grads_and_vars[position] for position in unserved]
            return stock(distribution, left, apply_state, name)

    def _hyperparameters(
        self,
        device: str,
        dtype: tf.DType,
        apply_state: Mapping[tuple[str, tf.DType], Mapping[str, Any]],
    ) -> dict[str, Any]:
        if dtype.size < tf.float32.size:
            dtype = tf.float32  # That of the arithmetic. In float16 an epsilon of 1e-8 is zero.
        values = apply_state.get((device, dtype)) or self._fallback_apply_state(device, dtype)
        return {
            "learning_rate": values["lr_t"],
            "rho": values["rho"],
            "epsilon": values["epsilon"],
        }


def _constrain(variable: tf.Variable) -> list[tf.Operation]:
    def constrain_here(_: str) -> tf.Operation:
        return variable.assign(variable.constraint(variable), read_value=False)

    return _replicas.update(variable, constrain_here)
