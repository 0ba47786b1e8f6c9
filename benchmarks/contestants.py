"""What is measured: ways to do one Adadelta step on a list of variables."""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_adadelta
from benchmarks.cases import Case, Shape
from benchmarks.names import (
    EAGER,
    FIT_JIT,
    FUNCTION,
    FUSED,
    JIT,
    KERAS,
    LEGACY_EAGER,
    LEGACY_FUNCTION,
    LIMIT,
    NUMPY,
    STOCK_CLASSIC,
    STOCK_OP,
    TF_KERAS_EAGER,
    TF_KERAS_FUNCTION,
)
from tf_adadelta._library import serves_xla

LEARNING_RATE = 1.0
RHO = 0.95
EPSILON = 1e-7


def find_missing() -> dict[str, str]:
    """Returns the contestants of this module that cannot take part, and why."""
    missing = {}
    if importlib.util.find_spec("tf_keras") is None:
        missing |= dict.fromkeys(STOCK_CLASSIC.values(), "tf_keras is not installed")
    if not serves_xla():
        missing |= dict.fromkeys(
            (FUSED[JIT], FUSED[FIT_JIT]), "jit_compile needs TensorFlow 2.20 or newer"
        )
    return missing


def zero_variables(shapes: Sequence[Shape], dtype: str = "float32") -> list[keras.Variable]:
    """Returns a variable of zeros for each shape."""
    return [keras.Variable("zeros", shape=shape, dtype=dtype) for shape in shapes]


class Work:
    """The gradients of one case, and one set of variables; all of it made when it is asked for.

    All contestants share the gradients. Those that update TensorFlow's variables in place share
    these variables too: where the pages of an array happen to lie makes a difference of up to a
    quarter on a virtual machine, and would be the luck of a contestant for the whole run.

    Attributes:
        case: What is updated.
        num_threads: How many threads the NumPy kernels may use.
    """

    def __init__(self, case: Case, num_threads: int) -> None:
        self.case = case
        self.num_threads = case.num_threads or num_threads

    @functools.cached_property
    def grads(self) -> list[np.ndarray]:
        """The gradients as NumPy arrays."""
        dtype = tf.as_dtype(self.case.dtype).as_numpy_dtype
        numbers = np.random.default_rng(0).standard_normal(2**20, np.float32).astype(dtype)
        # Over and over again: to draw a hundred million takes longer than to update them.
        return [np.resize(numbers[: math.prod(shape)], shape) for shape in self.case.shapes]

    @functools.cached_property
    def grad_tensors(self) -> list[tf.Tensor]:
        """The same gradients as tensors."""
        with tf.init_scope():  # Whoever asks first may be tracing.
            return [tf.constant(grad) for grad in self.grads]

    @functools.cached_property
    def state(self) -> list[list[keras.Variable]]:
        """The variables, accums and accum_updates that are shared, all zero."""
        with tf.init_scope():
            return [self.zero_variables() for _ in range(3)]

    def zero_variables(self) -> list[keras.Variable]:
        """Returns a variable of zeros for each variable of the case."""
        return zero_variables(self.case.shapes, self.case.dtype)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A contestant with variables, all zero, and everything traced.

    Attributes:
        step: Does one update of all variables. What it returns means nothing.
        values: Returns the current values of the variables.
        updates: How many updates a step really does.
    """

    step: Callable[[], object]
    values: Callable[[], list[np.ndarray]]
    updates: int = 1


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A way to do the update.

    Attributes:
        name: Its name in the results.
        mode: How it is executed: it is compared with the fused update in the same mode. None for
            what is no update, such as the limit.
        prepare: Makes its variables.
        bare: Whether it does an update, or moves its bytes, and nothing else.
        foreign: Whether it belongs to another framework, which may fail on this machine.
    """

    name: str
    mode: str | None
    prepare: Callable[[Any], Prepared]
    bare: bool = True
    foreign: bool = False


def _in_mode(step: Callable[[], None], mode: str) -> Callable[[], object]:
    if mode in (EAGER, TF_KERAS_EAGER, LEGACY_EAGER):
        return step
    function = tf.function(step, autograph=False, jit_compile=mode == JIT)
    # The concrete function: what a tf.function does in Python to find it is paid once per training
    # step, whatever the optimizer. Gradients of up to 128 elements become constants of the graph,
    # which can only help contestants that square them in an operation of its own.
    return function.get_concrete_function()


def make_optimizer(
    optimizer_class: type[keras.optimizers.Optimizer], **options: Any
) -> keras.optimizers.Optimizer:
    """Returns an optimizer of Keras, or ours, with the hyperparameters of the benchmark."""
    return optimizer_class(learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON, **options)


def prepare_optimizer(
    work: Work, optimizer_class: type[keras.optimizers.Optimizer], mode: str
) -> Prepared:
    """Prepares an optimizer of Keras, or ours."""
    # Keras puts its results into other memory at every step, unless XLA finds that it need not.
    in_place = optimizer_class is tf_adadelta.Adadelta or mode == JIT
    variables = work.state[0] if in_place else work.zero_variables()
    optimizer = make_optimizer(optimizer_class, **work.case.options)
    optimizer.build(variables)
    if in_place:
        slots = (optimizer._accumulated_grads, optimizer._accumulated_delta_vars)
        for own, shared in zip(slots, work.state[1:]):
            for slot, variable in zip(own, shared):
                slot._value = variable.value

    def step() -> None:
        for _ in range(work.case.options.get("gradient_accumulation_steps", 1)):
            optimizer.apply(work.grad_tensors, variables)

    return Prepared(_in_mode(step, mode), lambda: [value.numpy() for value in variables])


def _prepare_tf_keras(work: Work, stock: bool, mode: str) -> Prepared:
    if stock:
        from tf_keras.optimizers import Adadelta
    else:
        from tf_adadelta.tf_keras import Adadelta

    state = [work.zero_variables() for _ in range(3)] if stock else work.state
    variables, *slots = ([v.value for v in variables] for variables in state)
    optimizer = make_optimizer(Adadelta)
    optimizer.build(variables)
    optimizer._accumulated_grads, optimizer._accumulated_delta_vars = slots

    def step() -> None:
        optimizer.apply_gradients(zip(work.grad_tensors, variables))

    return Prepared(_in_mode(step, mode), lambda: [value.numpy() for value in variables])


def _prepare_legacy(work: Work, stock: bool, mode: str) -> Prepared:
    if stock:
        from tf_keras.optimizers.legacy import Adadelta
    else:
        from tf_adadelta.tf_keras.legacy import Adadelta

    variables, accums, accum_updates = ([v.value for v in state] for state in work.state)
    optimizer = make_optimizer(Adadelta)
    optimizer._create_hypers()
    # The slots that are shared, where the optimizer would create its own.
    optimizer._slots = {
        variable._unique_id: {"accum_grad": accum, "accum_var": accum_update}
        for variable, accum, accum_update in zip(variables, accums, accum_updates)
    }

    def step() -> None:
        optimizer.apply_gradients(zip(work.grad_tensors, variables))

    return Prepared(_in_mode(step, mode), lambda: [value.numpy() for value in variables])


def prepare_stock_op(work: Work) -> Prepared:
    """Prepares TensorFlow's own op, one for each variable."""
    scalars = {"lr": LEARNING_RATE, "rho": RHO, "epsilon": EPSILON}

    def step() -> None:
        for variable, accum, accum_update, grad in zip(*work.state, work.grad_tensors):
            tf.raw_ops.ResourceApplyAdadelta(
                var=variable.value.handle,
                accum=accum.value.handle,
                accum_update=accum_update.value.handle,
                **{name: tf.constant(value, grad.dtype) for name, value in scalars.items()},
                grad=grad,
            )

    return Prepared(_in_mode(step, FUNCTION), lambda: [value.numpy() for value in work.state[0]])


def _prepare_kernel(work: Work, kernel: Callable[..., None]) -> Prepared:
    variables, accums, accum_updates = (
        [np.zeros_like(grad) for grad in work.grads] for _ in range(3)
    )

    def step() -> None:
        kernel(variables, accums, accum_updates, work.grads, num_threads=work.num_threads)

    return Prepared(step, lambda: variables)


def prepare_copy(elements: int, calls: int = 1) -> Prepared:
    """Prepares the streams of `calls` dense updates in float32 with no arithmetic: their limit."""
    arrays = [np.zeros(elements, np.float32) for _ in range(4)]

    def step() -> None:
        for _ in range(calls):
            tf_adadelta.kernels.copy_streams(*arrays)

    return Prepared(step, lambda: arrays)


def _limit() -> Contestant:
    kernel = tf_adadelta.kernels.copy_streams
    return Contestant(LIMIT, None, functools.partial(_prepare_kernel, kernel=kernel))


def _fused_kernel() -> Contestant:
    kernel = functools.partial(
        tf_adadelta.kernels.fused_adadelta_apply,
        learning_rate=LEARNING_RATE,
        rho=RHO,
        epsilon=EPSILON,
    )
    return Contestant(FUSED[NUMPY], NUMPY, functools.partial(_prepare_kernel, kernel=kernel))


def _optimizer(
    name: str, optimizer_class: type[keras.optimizers.Optimizer], mode: str
) -> Contestant:
    prepare = functools.partial(prepare_optimizer, optimizer_class=optimizer_class, mode=mode)
    return Contestant(name, mode, prepare)


def _classic() -> list[Contestant]:
    return [
        Contestant(
            names[mode], mode, functools.partial(prepare, stock=names is STOCK_CLASSIC, mode=mode)
        )
        for prepare, modes in (
            (_prepare_tf_keras, (TF_KERAS_EAGER, TF_KERAS_FUNCTION)),
            (_prepare_legacy, (LEGACY_EAGER, LEGACY_FUNCTION)),
        )
        for mode in modes
        for names in (FUSED, STOCK_CLASSIC)
    ]


CONTESTANTS = (
    _limit(),
    _fused_kernel(),
    *(_optimizer(FUSED[mode], tf_adadelta.Adadelta, mode) for mode in (EAGER, FUNCTION, JIT)),
    *(_optimizer(KERAS[mode], keras.optimizers.Adadelta, mode) for mode in (EAGER, FUNCTION, JIT)),
    Contestant(STOCK_OP, FUNCTION, prepare_stock_op),
    *_classic(),
)
