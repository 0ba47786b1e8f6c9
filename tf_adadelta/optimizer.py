"""The optimizer for Keras 3."""

from typing import Any

import keras
import tensorflow as tf

from tf_adadelta._dispatch import Dispatcher
from tf_adadelta._slices import sum_duplicates
from tf_adadelta._slot import Slot

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_adadelta.Adadelta needs the TensorFlow backend of Keras, but Keras runs on "
        f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow before Python starts."
    )


@keras.saving.register_keras_serializable(package="tf_adadelta")
class Adadelta(keras.optimizers.Adadelta):
    """`keras.optimizers.Adadelta` with the update fused into one pass over memory.

    Arguments, defaults, variables, their order and names, configuration and numerics are those of
    `keras.optimizers.Adadelta` (https://keras.io/api/optimizers/adadelta/); checkpoints of either
    load into the other. The update of all variables of one dtype on one device is one call of
    `tf_adadelta.ops.fused_adadelta_apply`, in eager execution, in `tf.function`, and with
    `jit_compile=True`. The arithmetic is done in float32 for float16, bfloat16 and float32
    variables and in float64 for float64 ones, and stored back once.

    A sparse gradient (`tf.IndexedSlices`, from an embedding) costs no more than the rows that it
    has; those of equal indices are summed first. The idle decay of the other rows of both averages
    is put off until they have a gradient again; whoever reads a slot sees true values.

    What the fused ops do not serve takes Keras's own update, with one warning that says why: dtypes
    other than those four, devices other than the CPU and (in a build with CUDA) the GPU,
    `tf.distribute` strategies, and `jit_compile=True` before TensorFlow 2.20. With the environment
    variable `TF_ADADELTA_STRICT=1` that is a `RuntimeError` instead.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments. Defaults to 0.001. The original paper has 1.0.
        rho: A float, the decay rate of both averages. Defaults to 0.95.
        epsilon: A float, added inside both square roots. Defaults to 1e-7.
        weight_decay: A float or None; decoupled, before the step, as Keras has it.
        clipnorm: A float or None: the largest norm of each gradient.
        clipvalue: A float or None: the largest magnitude of each element of a gradient.
        global_clipnorm: A float or None: the largest norm of all gradients together.
        use_ema: Whether to keep exponential moving averages of the variables.
        ema_momentum: A float in [0, 1], with `use_ema`.
        ema_overwrite_frequency: A number of steps or None, with `use_ema`.
        loss_scale_factor: A float or None, by which the gradients are divided.
        gradient_accumulation_steps: A number of steps, at least 2, or None.
        name: A string or None.
        sparse_update: "exact": a sparse gradient has the result of the dense one, as Keras means it
            (but with duplicates summed, which Keras gets wrong). "lazy": rows without a gradient do
            not change, averages included, as `tf.compat.v1.train.AdadeltaOptimizer` has it.
        **kwargs: As `keras.optimizers.Adadelta` has them.

    Raises:
        ValueError: `sparse_update` is neither "exact" nor "lazy".
        tf.errors.InvalidArgumentError: In `apply`: a gradient has another shape than its variable,
            or an index that is not that of a row. No variable of that dtype has then been changed.
        RuntimeError: In `apply`: something is not served and `TF_ADADELTA_STRICT=1`.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> model.compile(optimizer=tf_adadelta.Adadelta(learning_rate=1.0), loss="mse")
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
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str | None = None,
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
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.sparse_update = sparse_update
        self._dispatcher = Dispatcher(self.name, self._slots_of, sparse_update, self._start_clock)

    def build(self, variables: list[Any]) -> None:
        """Creates the slots. As in `keras.optimizers.Adadelta`."""
        if self.built:
            return
        super().build(variables)
        for variable, *slots in zip(
            variables, self._accumulated_grads, self._accumulated_delta_vars
        ):
            for slot in slots:
                if slot is not None:  # As for a variable that its gradient overwrites.
                    Slot.adopt(slot, lambda v=variable: self._dispatcher.keep_up_to_date(_raw(v)))

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration; that of Keras, unless `sparse_update` is "lazy"."""
        config = super().get_config()
        if self.sparse_update != "exact":
            config["sparse_update"] = self.sparse_update
        return config

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns to a variable or slot. As in `keras.optimizers.Adadelta`."""
        super().assign(variable.caught_up() if isinstance(variable, Slot) else variable, value)

    def _slots_of(self, variable: Any) -> tuple[Any, Any]:
        index = self._get_variable_index(variable)
        return self._accumulated_grads[index].stored, self._accumulated_delta_vars[index].stored

    def _start_clock(self, variable: Any, clock: Any) -> None:
        index = self._get_variable_index(variable)
        self._accumulated_grads[index].clock = clock
        self._accumulated_delta_vars[index].clock = clock

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        if self.clipnorm or self.global_clipnorm or self.clipvalue:
            grads = [
                sum_duplicates(grad) if isinstance(grad, tf.IndexedSlices) else grad
                for grad in grads
            ]
        return super()._clip_gradients(grads)

    def _backend_update_step(
        self, grads: list[Any], trainable_variables: list[Any], learning_rate: Any
    ) -> None:
        variables = list(map(_raw, trainable_variables))
        hyperparameters = {
            "learning_rate": learning_rate,
            "rho": self.rho,
            "epsilon": self.epsilon,
        }
        _, unserved = self._dispatcher.apply(variables, grads, lambda *_: hyperparameters)
        if unserved:
            super()._backend_update_step(
                [grads[position] for position in unserved],
                [trainable_variables[position] for position in unserved],
                learning_rate,
            )


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, keras.Variable) else variable
