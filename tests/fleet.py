"""Many optimizers, each with other options and variables of its own, that step together.

So a function is traced and compiled once for all of them.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf
from oracle import DTYPES, TOLERANCES

import tf_adadelta

PART = (
    36  # So many optimizers in one function: XLA takes more than twice as long for twice as many.
)


@dataclasses.dataclass(frozen=True)
class Spec:
    """What one optimizer is made of.

    Attributes:
        name: What a failure calls it.
        options: Arguments of the optimizer.
        shapes: Those of the variables, by name.
        excluded: The names of the variables without weight decay.
        constrained: The names of the variables with a constraint.
        scaled: Whether a LossScaleOptimizer is around it.
        fused_scale: Whether that is ours, around ours.
    """

    name: str
    options: dict
    shapes: dict
    excluded: tuple = ()
    constrained: tuple = ()
    scaled: bool = False
    fused_scale: bool = False


class Member:
    """An optimizer with its variables.

    Attributes:
        state: Everything that a step may change, `tf.Variable`s by name.
    """

    def __init__(self, spec, make, dtype):
        rng = np.random.default_rng(0)
        self.spec = spec
        self.variables = [
            # What every dtype can hold, so that all start from the same.
            keras.Variable(rng.integers(-64, 64, shape) / 32, dtype=dtype, name=name)
            for name, shape in spec.shapes.items()
        ]
        for variable in self.variables:
            if variable.name in spec.constrained:
                variable.constraint = keras.constraints.NonNeg()
        inner = make(**{"learning_rate": 0.5, "epsilon": 1e-3, **spec.options})
        if spec.excluded:
            inner.exclude_from_weight_decay(var_names=list(spec.excluded))
        self.optimizer = inner
        if spec.scaled:
            wrap = keras.optimizers.LossScaleOptimizer
            if spec.fused_scale and isinstance(inner, tf_adadelta.Adadelta):
                wrap = tf_adadelta.LossScaleOptimizer
            self.optimizer = wrap(inner, initial_scale=4.0, dynamic_growth_steps=7)
        self.optimizer.build(self.variables)
        self.state = {v.name: v for v in (*self.variables, *inner.variables)}
        if spec.scaled:
            own = self.optimizer.variables[: -len(inner.variables)]
            self.state |= {f"wrapper {v.name}": v for v in own}
        self._start = {name: v.numpy() for name, v in self.state.items()}

    def reset(self):
        for name, value in self._start.items():
            self.state[name].assign(value)

    def apply(self, grads, missing):
        """Takes a step with those of the gradients that have the shapes of the variables."""
        grads = [
            None if name == missing else grads[shape] for name, shape in self.spec.shapes.items()
        ]
        self.optimizer.apply(grads, self.variables)

    def read(self):
        return {name: variable.numpy() for name, variable in self.state.items()}


class Fleet:
    """Optimizers of one class and dtype."""

    def __init__(self, specs, make, dtype):
        self.dtype = dtype
        self.members = [Member(spec, make, dtype) for spec in specs]
        self._functions = {}

    def reset(self):
        for member in self.members:
            member.reset()

    def step(self, mode, grads, missing=None):
        """Takes a step.

        Args:
            mode: "eager", "graph" or "jit".
            grads: Gradients by shape.
            missing: The name of a variable without a gradient.
        """
        if mode not in self._functions:
            parts = [self.members[i : i + PART] for i in range(0, len(self.members), PART)]
            self._functions[mode] = [self._function(mode, part) for part in parts]
        for function in self._functions[mode]:
            function(grads, missing)

    def read(self):
        return [member.read() for member in self.members]

    @staticmethod
    def _function(mode, members):
        def step(grads, missing):
            for member in members:
                member.apply(grads, missing)

        if mode == "eager":
            return step
        return tf.function(step, autograph=False, jit_compile=mode == "jit")


class Reference:
    """What another fleet arrived at, and the largest magnitude that each element had on the way.

    Args:
        fleet: That fleet.
        stored: The name of the dtype to which its variables are rounded after each step, so that
            arithmetic in a wider dtype gives what should be stored in a narrower one.
    """

    def __init__(self, fleet, stored=None):
        self.fleet = fleet
        self.stored = stored and DTYPES[stored]
        self.values = fleet.read()
        self.largest = [
            {name: np.abs(np.asarray(value, np.float64)) for name, value in state.items()}
            for state in self.values
        ]

    def observe(self):
        """Takes in a step of the fleet."""
        self.values = self.fleet.read()
        for member, values, largest in zip(self.fleet.members, self.values, self.largest):
            for name, value in values.items():
                if self.stored and value.dtype.kind == "f" and "learning_rate" not in name:
                    value = value.astype(self.stored).astype(value.dtype)
                    values[name] = value
                    member.state[name].assign(value)
                largest[name] = np.maximum(largest[name], np.abs(np.asarray(value, np.float64)))

    def snapshot(self):
        """What `mismatches` compares with: values and largest magnitudes, by name of a spec."""
        return {
            member.spec.name: (values, dict(largest))
            for member, values, largest in zip(self.fleet.members, self.values, self.largest)
        }


def mismatches(fleet, expected):
    """Says where a fleet is not what is expected: a line for each variable that is off.

    The tolerance is that of the dtype, relative to the largest magnitude that an element has had.

    Args:
        fleet: The fleet.
        expected: A snapshot of a `Reference`.
    """
    absolute, relative = TOLERANCES[fleet.dtype]
    lines = []
    for member in fleet.members:
        state, (values, largest) = member.read(), expected[member.spec.name]
        assert list(state) == list(values)
        for name, value in state.items():
            value, right = (np.asarray(v, np.float64) for v in (value, values[name]))
            assert value.shape == right.shape
            error = np.abs(value - right)
            bound = absolute + relative * largest[name]
            if not np.all(error <= bound):
                worst = np.nanmax(error / bound)
                lines.append(f"{member.spec.name}: {name} is off by {worst:.3g} tolerances")
    return lines


def make_grads(rng, shapes, dtype="float32", rounded=None):
    """Gradients of a step by shape; some steps have large ones, some small ones.

    Args:
        rng: The generator.
        shapes: All shapes.
        dtype: The dtype that they have.
        rounded: That in which they were computed, if it is another one.
    """
    grads = {}
    for shape in shapes:
        grad = rng.standard_normal(shape) * 10 ** rng.uniform(-1.5, 0.5)
        grad = np.asarray(grad).astype(DTYPES[rounded or dtype])
        grads[shape] = tf.constant(grad.astype(DTYPES[dtype]))
    return grads
