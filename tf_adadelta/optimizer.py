"""The optimizer for Keras 3."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend import Variable

from tf_adadelta import _block_codes
from tf_adadelta._dispatch import Dispatcher, StockUpdate
from tf_adadelta._rounding import StochasticRounding
from tf_adadelta._slices import sum_duplicates
from tf_adadelta._slot import Slot
from tf_adadelta._step_options import KnownNorms, StepOptions

# Whether it is not `apply` that counts the steps, but `_backend_apply_gradients`.
_COUNTS_IN_BACKEND = tuple(map(int, keras.__version__.split(".")[:2])) < (3, 10)

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "tf_adadelta.Adadelta needs the TensorFlow backend of Keras, but Keras runs on "
        f"'{keras.backend.backend()}'. Set KERAS_BACKEND=tensorflow before Python starts."
    )


_STOCK_UPDATE = StockUpdate("exact", sums_duplicates=False)


@dataclasses.dataclass
class _Step:
    """What the caller of a step knows of its gradients."""

    grad_divisor: Any = None
    known_norms: KnownNorms | None = None


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
    is put off until they have a gradient again; whoever reads a slot sees true values. Saving pays
    what was put off, so that a run that goes on and one that is restored have the same bits.

    Under a `tf.distribute` strategy the update is one such call on each device that has variables,
    by the gradients of all replicas; what comes around it is Keras's own, in Keras's order.

    What the fused ops do not serve takes Keras's own update, with one warning that says why: dtypes
    other than those four, devices other than the CPU and (in a build with CUDA) the GPU,
    servers that have not loaded the ops, and `jit_compile=True` before TensorFlow 2.20. With the
    environment variable `TF_ADADELTA_STRICT=1` that is a `RuntimeError` instead.

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
        state_dtype: None: both averages have the dtype of their variable. "bfloat16": those of
            float32 variables are kept in bfloat16, half of the memory and 20 bytes an element
            instead of 28, and are rounded stochastically; the variables themselves stay as exact as
            they are. "uint8": in 8 bits, with a scale for every 256 elements of a row, a quarter of
            the memory and 16 bytes an element; those of variables of less than 4,096 elements, or
            with rows of less than 16, stay in float32. The slots show, save and load float32
            values.
        stochastic_rounding: Whether bfloat16 variables, as with the dtype policy "bfloat16", and
            what is kept for them are rounded up or down at random, so that they are right in the
            mean; rounded to the nearest, they stop moving where a step is less than half the
            distance of two bfloat16. Variables of other dtypes are always rounded to the nearest.
            What is not fused raises a `RuntimeError` then; under a strategy, weight decay and
            averages, which are Keras's own there, round to the nearest.
        seed: Of both. An int, at least 0 and less than 2^31. The random bits are a hash of it, of
            `iterations`, and of the place of the element: they are the same on every device, and
            again after a save and a load.
        **kwargs: As `keras.optimizers.Adadelta` has them.

    Raises:
        ValueError: `sparse_update` is neither "exact" nor "lazy", `state_dtype` neither None,
            "bfloat16" nor "uint8", or `seed` is out of range.
        tf.errors.InvalidArgumentError: In `apply`: a gradient has another shape than its variable,
            or an index that is not that of a row. No variable of that dtype has then been changed.
        RuntimeError: In `apply`: something is not served and `TF_ADADELTA_STRICT=1`, or it was to
            be rounded stochastically.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> model.compile(optimizer=tf_adadelta.Adadelta(learning_rate=1.0), loss="mse")
        >>> model.fit(x, y)
    """

    # Shape and dtype of the next slot, where they are not those of its variable.
    _next: tuple[tuple[int, ...], str] | None = None

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
        state_dtype: str | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
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
        self.start_fused(sparse_update, state_dtype, stochastic_rounding, seed)

    def start_fused(
        self,
        sparse_update: str = "exact",
        state_dtype: str | None = None,
        stochastic_rounding: bool = False,
        seed: int = 0,
    ) -> None:
        """Sets up what this class has besides the attributes of Keras's, which are there already.

        Args:
            sparse_update: As the constructor has it.
            state_dtype: Likewise.
            stochastic_rounding: Likewise.
            seed: Likewise.
        """
        if state_dtype not in (None, "bfloat16", "uint8"):
            raise ValueError(
                f"state_dtype is {state_dtype!r}, expected None, 'bfloat16' or 'uint8'"
            )
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise ValueError(f"seed is {seed!r}, expected an int from 0 to 2147483647")
        self.sparse_update = sparse_update
        self.state_dtype = state_dtype
        self.stochastic_rounding = stochastic_rounding
        self.seed = seed
        self._step = _Step()
        rounding = StochasticRounding(self._rounds, self._seed_of, self._count_of_steps)
        self._dispatcher = Dispatcher(
            self.name,
            self._slots_of,
            sparse_update,
            _STOCK_UPDATE,
            self._start_clock,
            rounding if stochastic_rounding or state_dtype is not None else None,
        )
        if self.built:
            self._adopt_slots()

    def build(self, variables: list[Any]) -> None:
        """Creates the slots. As in `keras.optimizers.Adadelta`."""
        if self.built:
            return
        super().build(variables)
        self._dispatcher.planner.forget_slots()
        self._adopt_slots()

    def _adopt_slots(self) -> None:
        for variable, *slots in zip(
            self._trainable_variables, self._accumulated_grads, self._accumulated_delta_vars
        ):
            for slot in slots:
                if slot is not None:  # As for a variable that its gradient overwrites.
                    Slot.adopt(
                        slot,
                        keras.backend.standardize_dtype(variable.dtype),
                        tuple(variable.shape),
                        lambda v=variable: self._dispatcher.planner.keep_up_to_date(_raw(v)),
                    )

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> Any:
        """Creates a variable like another one. As in `keras.optimizers.Adadelta`."""
        is_slot = name in ("accumulated_grad", "accumulated_delta_var")
        shape = tuple(reference_variable.shape)
        if is_slot and reference_variable.dtype == "float32":
            if self.state_dtype == "uint8" and _block_codes.serves(shape):
                self._next = (_block_codes.stored_shape(shape), "uint8")
            elif self.state_dtype == "bfloat16":
                self._next = (shape, "bfloat16")
        try:
            return super().add_variable_from_reference(reference_variable, name, initializer)
        finally:
            self._next = None

    def add_variable(
        self, shape: Any, initializer: Any = "zeros", dtype: Any = None, **kwargs: Any
    ) -> Any:
        """Creates a variable. As in `keras.optimizers.Adadelta`."""
        shape, dtype = self._next or (shape, dtype)
        return super().add_variable(shape, initializer, dtype, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration: that of Keras, and what was asked for besides."""
        config = super().get_config()
        if self.sparse_update != "exact":
            config["sparse_update"] = self.sparse_update
        if self.state_dtype is not None:
            config.update(state_dtype=self.state_dtype, seed=self.seed)
        if self.stochastic_rounding:
            config.update(stochastic_rounding=True, seed=self.seed)
        return config

    def assign(self, variable: Any, value: Any) -> None:
        """Assigns to a variable or slot. As in `keras.optimizers.Adadelta`."""
        super().assign(variable.caught_up() if isinstance(variable, Slot) else variable, value)

    def _slots_of(self, variable: Any) -> tuple[Any, Any]:
        index = self._get_variable_index(variable)
        return self._accumulated_grads[index].stored, self._accumulated_delta_vars[index].stored

    def _rounds(self, variable: Any) -> bool:
        if variable.dtype == tf.bfloat16:
            return self.stochastic_rounding
        return self._slots_of(variable)[0].dtype != variable.dtype

    def _seed_of(self, variable: Any) -> int:
        return (self.seed << 32) + self._get_variable_index(variable)

    def _count_of_steps(self) -> Any:
        return self._iterations.value

    def _start_clock(self, variable: Any, clock: Any) -> None:
        index = self._get_variable_index(variable)
        self._accumulated_grads[index].clock = clock
        self._accumulated_delta_vars[index].clock = clock

    def save_own_variables(self, store: Any) -> None:
        """Saves the state. As in `keras.optimizers.Adadelta`; idle rows have caught up then."""
        self._dispatcher.planner.catch_up()
        super().save_own_variables(store)

    def exclude_from_weight_decay(self, *args: Any, **kwargs: Any) -> None:
        """Excludes variables from weight decay. As in `keras.optimizers.Adadelta`."""
        super().exclude_from_weight_decay(*args, **kwargs)
        self._dispatcher.planner.forget_plan()

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Updates variables by their gradients. As in `keras.optimizers.Adadelta`."""
        self.apply_scaled(grads, trainable_variables, self.loss_scale_factor)

    def apply_scaled(
        self,
        grads: list[Any],
        trainable_variables: list[Any] | None,
        scale: Any,
        known_norms: KnownNorms | None = None,
    ) -> None:
        """`apply` for gradients of a scaled loss, whatever `loss_scale_factor` is.

        Args:
            grads: The gradients.
            trainable_variables: As `apply` has it.
            scale: What the loss was multiplied by: a number, a scalar tensor, or None.
            known_norms: The norms of the gradients, if they are known already.
        """
        if tf.distribute.has_strategy() and scale is self.loss_scale_factor:
            super().apply(grads, trainable_variables)
            return
        kept, self.loss_scale_factor = self.loss_scale_factor, None  # Not a pass of its own.
        self._step = _Step(scale, known_norms)
        try:
            super().apply(grads, trainable_variables)
        finally:
            self.loss_scale_factor = kept
            self._step = _Step()

    def _backend_apply_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> None:
        options = None if tf.distribute.has_strategy() else self._step_options()
        if options is not None:
            _, unserved = self._dispatcher.apply(
                list(map(_raw, trainable_variables)),
                grads,
                self._hyperparameters(self.learning_rate),
                options,
            )
            if not unserved:
                self._finish_step(trainable_variables, options)
                if _COUNTS_IN_BACKEND:
                    self._iterations.assign_add(1)
                return
        if self._step.grad_divisor is not None:
            grads = [keras.ops.divide(grad, self._step.grad_divisor) for grad in grads]
        super()._backend_apply_gradients(grads, trainable_variables)

    def _step_options(self) -> StepOptions | None:
        """Returns what is to be done around the update, None if nothing is."""
        given = (self.clipnorm, self.global_clipnorm, self.clipvalue, self.weight_decay)
        around = (*given, self._step.grad_divisor)
        steps = self.gradient_accumulation_steps
        if not (self.use_ema or steps or any(value is not None for value in around)):
            return None
        ema_momentum = 0.0
        if self.use_ema:
            not_first = tf.cast(tf.not_equal(tf.convert_to_tensor(self.iterations), 0), tf.float64)
            ema_momentum = not_first * self.ema_momentum
        return StepOptions(
            grad_divisor=self._step.grad_divisor,
            clipnorm=_positive(self.clipnorm),
            global_clipnorm=_positive(self.global_clipnorm),
            clipvalue=_positive(self.clipvalue),
            weight_decay=self.weight_decay,
            is_decayed=self._use_weight_decay,
            average_of=self._average_of if self.use_ema else None,
            ema_momentum=ema_momentum,
            grad_accum_of=self._grad_accum_of if steps else None,
            accumulation_steps=steps or 1,
            update=self._is_update_step() if steps else True,
            known_norms=self._step.known_norms,
        )

    def _is_update_step(self) -> tf.Tensor:
        return tf.equal((self._iterations.value + 1) % self.gradient_accumulation_steps, 0)

    def _average_of(self, variable: tf.Variable) -> tf.Variable:
        return _raw(self._model_variables_moving_average[self._get_variable_index(variable)])

    def _grad_accum_of(self, variable: tf.Variable) -> tf.Variable:
        return _raw(self._accumulated_gradients[self._get_variable_index(variable)])

    def _finish_step(self, updated: list[Any], options: StepOptions) -> None:
        """Does for variables without a gradient what Keras does for all, and what comes last."""
        done = {self._get_variable_index(variable) for variable in updated}
        others = [i for i in range(len(self._trainable_variables)) if i not in done]
        if options.grad_accum_of is not None and others:
            keras.ops.cond(options.update, lambda: self._reset_grad_accums(others), lambda: None)
        if not self.use_ema:
            return
        for i in others:
            average = self._model_variables_moving_average[i]
            if average is not None:
                momentum = tf.cast(options.ema_momentum, average.dtype)
                average.assign(momentum * average + (1 - momentum) * self._trainable_variables[i])
        if self.ema_overwrite_frequency:
            keras.ops.cond(
                (self.iterations + 1) % self.ema_overwrite_frequency == 0,
                lambda: self._overwrite_model_variables_with_average_value(
                    self._trainable_variables
                ),
                lambda: None,
            )

    def _reset_grad_accums(self, indices: list[int]) -> None:
        for i in indices:
            self._accumulated_gradients[i].assign(tf.zeros_like(self._accumulated_gradients[i]))

    def _hyperparameters(self, learning_rate: Any) -> Callable[..., dict[str, Any]]:
        values = {"learning_rate": learning_rate, "rho": self.rho, "epsilon": self.epsilon}
        return lambda *_: values

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
        if tf.distribute.has_strategy():  # Whose replicas sum their gradients first.
            super()._backend_update_step(grads, trainable_variables, learning_rate)
            return
        unserved = self._update(grads, list(map(_raw, trainable_variables)), learning_rate)
        if unserved:
            super()._backend_update_step(
                [grads[position] for position in unserved],
                [trainable_variables[position] for position in unserved],
                learning_rate,
            )

    @tf.autograph.experimental.do_not_convert  # A strategy's merge_call asks for it.
    def _distributed_tf_update_step(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: list[tuple[Any, Any]],
        learning_rate: Any,
    ) -> None:
        if tf.distribute.has_strategy():
            unserved = self._update(*map(list, zip(*grads_and_vars)), learning_rate)
            grads_and_vars = [grads_and_vars[position] for position in unserved]
        super()._distributed_tf_update_step(distribution, grads_and_vars, learning_rate)

    def _update(self, grads: list[Any], variables: list[Any], learning_rate: Any) -> list[int]:
        """Updates what the fused ops serve; returns the positions of the other variables."""
        _, unserved = self._dispatcher.apply(variables, grads, self._hyperparameters(learning_rate))
        return unserved


def _positive(limit: float | None) -> float | None:
    return limit if limit is not None and limit > 0 else None  # Others, Keras ignores.


def _raw(variable: Any) -> Any:
    return variable.value if isinstance(variable, Variable) else variable
