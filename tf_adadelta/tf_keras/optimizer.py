"""The optimizer for `tf_keras.optimizers`."""

from typing import Any

import tensorflow as tf
import tf_keras

from tf_adadelta._dispatch import Dispatcher, StockUpdate


@tf_keras.saving.register_keras_serializable(package="tf_adadelta")
class Adadelta(tf_keras.optimizers.Adadelta):
    """`tf_keras.optimizers.Adadelta` with the update fused into one pass over memory.

    Arguments, defaults, variables, their order and names, configuration and numerics are those of
    `tf_keras.optimizers.Adadelta`, the class that TensorFlow 2.11 to 2.15 had as
    [tf.keras.optimizers.Adadelta](https://www.tensorflow.org/versions/r2.15/api_docs/python/tf/keras/optimizers/Adadelta);
    checkpoints of either load into the other. The update of all variables of one dtype on one
    device is one call of `tf_adadelta.ops.fused_adadelta_apply` (`fused_adadelta_sparse_apply` for
    sparse gradients with "lazy"). The arithmetic is done in float32
    for float16, bfloat16 and float32 variables and in float64 for float64 ones, and stored back
    once. Under a `tf.distribute` strategy there is such a call on each device that has variables.

    What the fused ops do not serve takes tf_keras's own update, with one warning that says why:
    dtypes other than those four, devices other than the CPU and (in a build with CUDA) the GPU,
    servers that have not loaded the ops, and `jit_compile=True` before TensorFlow 2.20. With the
    environment variable `TF_ADADELTA_STRICT=1` that is a `RuntimeError` instead. With a DTensor
    mesh, all of the update is tf_keras's own.

    Args:
        learning_rate: A float or a `tf_keras.optimizers.schedules.LearningRateSchedule`. Defaults
            to 0.001. The original paper has 1.0.
        rho: A float, the decay rate of both averages. Defaults to 0.95.
        epsilon: A float, added inside both square roots. Defaults to 1e-7.
        weight_decay: A float or None; decoupled, before the step.
        clipnorm: A float or None: the largest norm of each gradient.
        clipvalue: A float or None: the largest magnitude of each element of a gradient.
        global_clipnorm: A float or None: the largest norm of all gradients together.
        use_ema: Whether to keep exponential moving averages of the variables.
        ema_momentum: A float in [0, 1], with `use_ema`.
        ema_overwrite_frequency: A number of steps or None, with `use_ema`.
        jit_compile: Whether what is left to tf_keras's own update is compiled by XLA, where there
            is a GPU.
        name: A string.
        sparse_update: "exact": a sparse gradient has the result of the dense one, as tf_keras has
            it, by the dense update. "lazy": rows without a gradient do not change, averages
            included, and a step costs no more than the rows that it touches.
        **kwargs: As `tf_keras.optimizers.Adadelta` has them.

    Raises:
        tf.errors.InvalidArgumentError: In `apply_gradients`: a gradient has another shape than its
            variable. No variable has then been changed.
        KeyError: In `apply_gradients`: a variable was not there when the optimizer was built. No
            variable has then been changed.
        RuntimeError: In `apply_gradients`: something is not served and `TF_ADADELTA_STRICT=1`.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> model.compile(optimizer=tf_adadelta.tf_keras.Adadelta(learning_rate=1.0), loss="mse")
        >>> model.fit(x, y)
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.95,
        epsilon: float = 1e-7,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        jit_compile: bool = True,
        name: str = "Adadelta",
        sparse_update: str = "exact",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            rho=rho,
            epsilon=epsilon,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            jit_compile=jit_compile,
            name=name,
            **kwargs,
        )
        self.start_fused(sparse_update)

    def start_fused(self, sparse_update: str = "exact") -> None:
        """Sets up what this class has besides the attributes of the stock one.

        Args:
            sparse_update: As the constructor has it.
        """
        self.sparse_update = sparse_update
        self._dispatcher = Dispatcher(
            self.name, self._slots_of, sparse_update, StockUpdate("exact")
        )

    def build(self, var_list: list[tf.Variable]) -> None:
        """Creates the slots. As in `tf_keras.optimizers.Adadelta`."""
        super().build(var_list)
        self._dispatcher.planner.forget_slots()

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration; that of tf_keras, unless `sparse_update` is "lazy"."""
        config = super().get_config()
        if self.sparse_update != "exact":
            config["sparse_update"] = self.sparse_update
        return config

    def _slots_of(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        key = self._var_key(variable)
        if key not in self._index_dict:
            super()._update_step(None, variable)  # Says what is wrong.
        index = self._index_dict[key]
        return self._accumulated_grads[index], self._accumulated_delta_vars[index]

    @tf.autograph.experimental.do_not_convert  # A strategy's merge_call asks for it.
    def _distributed_apply_gradients_fn(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: list[tuple[Any, tf.Variable]],
        **kwargs: Any,
    ) -> tf.Variable:
        grads, variables = zip(*grads_and_vars)
        hyperparameters = {
            "learning_rate": self.learning_rate,
            "rho": self.rho,
            "epsilon": self.epsilon,
        }
        _, unserved = self._dispatcher.apply(variables, grads, lambda *_: hyperparameters)
        # The stock method goes on with the averages of all variables and the iteration.
        left = [(None, variable) for variable in variables]
        for position in unserved:
            left[position] = grads_and_vars[position]
        return super()._distributed_apply_gradients_fn(distribution, left, **kwargs)

    def _update_step(self, gradient: Any, variable: tf.Variable) -> None:
        if gradient is not None:
            super()._update_step(gradient, variable)

    def _update_step_xla(self, gradient: Any, variable: tf.Variable, key: int) -> None:
        if gradient is not None:
            super()._update_step_xla(gradient, variable, key)
