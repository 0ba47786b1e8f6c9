"""Every combination of the options of Keras that Keras accepts, beside stock Keras.

Clipping (none, clipnorm, global_clipnorm, clipvalue) x loss scale (none, loss_scale_factor, a
LossScaleOptimizer around) x weight decay (none, all, a part excluded) x averages (none, use_ema,
with ema_overwrite_frequency) x gradient accumulation (none, 3 steps): 216 optimizers, each for

- float32 variables with gradients in float32, as `mixed_float16` and as `mixed_bfloat16` give them
  (float32, with the values of the 16-bit type), and pure bfloat16 variables and gradients;
- 20 steps in tf.function and jit_compile, 4 steps in eager execution, which is a full cycle of
  accumulation and two of overwriting; a sample with every pair of choices takes 20 steps there too,
  and has a variable without a gradient in every other step, in all three.

Everything that a step may change is compared: variables, slots, averages, gradient accumulators,
iterations, scales. For bfloat16, the reference is Keras in float32 with what it stores rounded to
bfloat16 once a step, from which Keras in bfloat16 is off by much more than a rounding.
"""

import contextlib
import gc
import itertools
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import needs_xla
from fleet import Fleet, Reference, Spec, make_grads, mismatches
from oracle import TOLERANCES

import tf_adadelta

pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist")

EMA = {"use_ema": True, "ema_momentum": 0.8}
CHOICES = {
    "clip": {
        "no clip": {},
        "clipnorm": {"clipnorm": 0.5},
        "global_clipnorm": {"global_clipnorm": 0.6},
        "clipvalue": {"clipvalue": 0.1},
    },
    "scale": {
        "no scale": {},
        "loss_scale_factor": {"loss_scale_factor": 3.0},
        "LossScaleOptimizer": {},
    },
    "decay": {
        "no decay": {},
        "weight_decay": {"weight_decay": 0.04},
        "part excluded": {"weight_decay": 0.04},
    },
    "ema": {
        "no ema": {},
        "use_ema": EMA,
        "ema_overwrite": {**EMA, "ema_overwrite_frequency": 2},
    },
    "accumulation": {"no accumulation": {}, "accumulation": {"gradient_accumulation_steps": 3}},
}
EVERY = list(itertools.product(*CHOICES.values()))
SHAPES = [(5, 7), (3,), (), (1,), (4097,), (0,), (2,)]
STEPS, EAGER_STEPS = 20, 4

KINDS = {  # The dtypes of the variables, of the gradients, and in which these were computed.
    "float32": ("float32", None),
    "mixed_float16": ("float32", "float16"),
    "mixed_bfloat16": ("float32", "bfloat16"),
    "bfloat16": ("bfloat16", None),
}
MODES = ["eager", "graph", pytest.param("jit", marks=needs_xla)]
# All combinations in the other two modes take a minute more. An eager step runs the ops that a
# graph has, which one dtype shows.
EVERY_IN = [
    pytest.param(mode, kind, marks=marks)
    for mode, kinds, marks in (
        ("eager", ["float32"], pytest.mark.exhaustive),
        ("graph", KINDS, ()),
        ("jit", KINDS, [needs_xla, pytest.mark.exhaustive]),
    )
    for kind in kinds
]


def sample():
    """Twelve combinations with every pair of choices among them."""
    names = [list(choices) for choices in CHOICES.values()]
    return [
        tuple(
            names[factor][digit]
            for factor, digit in enumerate(
                (clip, scale, (clip + scale) % 3, (clip + 2 * scale) % 3, (clip // 2 + scale) % 2)
            )
        )
        for clip in range(4)
        for scale in range(3)
    ]


def make_spec(combination, missing=False):
    # The same for each choice of the decay, so that these can be compared.
    rng = random.Random(str([choice for choice in combination if choice not in CHOICES["decay"]]))
    shapes = {"matrix": (5, 7), "second": rng.choice([(3,), (), (1,), (4097,)])}
    if rng.random() < 0.2:
        shapes["empty"] = (0,)
    if missing:
        shapes["missing"] = (2,)
    return Spec(
        name=" + ".join(combination),
        options={
            key: value
            for choices, choice in zip(CHOICES.values(), combination)
            for key, value in choices[choice].items()
        },
        shapes=shapes,
        excluded=("matrix",) if "part excluded" in combination else (),
        constrained=("matrix",) if rng.random() < 0.3 else (),
        scaled="LossScaleOptimizer" in combination,
    )


SPECS = {
    "every": [make_spec(combination) for combination in EVERY],
    "sample": [make_spec(combination, missing=True) for combination in sample()],
}


def accepted(spec, dtype):
    """Whether Keras takes it: it fails to add what a LossScaleOptimizer gives, which is float32."""
    accumulates_scaled = spec.scaled and "gradient_accumulation_steps" in spec.options
    return not (dtype == "bfloat16" and accumulates_scaled)


def grads_of(kind, stored=None):
    """The gradients of all steps, and which variable has none; in another dtype if asked."""
    dtype, rounded = KINDS[kind]
    rng = np.random.default_rng(1)
    for number in range(STEPS):
        grads = make_grads(rng, SHAPES, stored or dtype, rounded or dtype)
        yield number, grads, "missing" if number % 2 else None


@pytest.fixture(autouse=True)
def _fresh_keras():
    """In place of that of conftest.py, which has what was compiled compiled again."""


@pytest.fixture(scope="module")
def fleets():
    """Returns the fleet of a set of specs, a class and a dtype."""
    made = {}

    def get(which, make, dtype):
        if (which, make, dtype) not in made:
            specs = [spec for spec in SPECS[which] if accepted(spec, dtype)]
            made[which, make, dtype] = Fleet(specs, make, dtype)
        fleet = made[which, make, dtype]
        fleet.reset()
        return fleet

    gc.disable()  # It would look through all these graphs again and again.
    yield get
    made.clear()
    gc.enable()
    gc.collect()


@contextlib.contextmanager
def unoptimized_graphs():
    """Which give the same numbers after less time, as they are run only a few times."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture(scope="module")
def references(fleets):
    """Returns what stock Keras arrives at: snapshots after both numbers of steps."""
    made = {}

    def get(which, kind):
        if (which, kind) not in made:
            fleet = fleets(which, keras.optimizers.Adadelta, "float32")
            reference = Reference(fleet, "bfloat16" if kind == "bfloat16" else None)
            snapshots = {}
            for number, grads, missing in grads_of(kind, stored="float32"):
                with unoptimized_graphs():
                    fleet.step("graph", grads, missing if which == "sample" else None)
                if kind == "bfloat16" or number + 1 in (EAGER_STEPS, STEPS):
                    reference.observe()
                if number + 1 in (EAGER_STEPS, STEPS):
                    snapshots[number + 1] = reference.snapshot()
            made[which, kind] = snapshots
        return made[which, kind]

    yield get
    made.clear()


def check(fleet, mode, kind, steps, expected, missing):
    for number, grads, name in grads_of(kind):
        if number == steps:
            break
        fleet.step(mode, grads, name if missing else None)
    lines = mismatches(fleet, expected[steps])
    assert not lines, "\n".join([f"{len(lines)} variables are off:", *lines[:20]])


def test_the_sample_has_every_pair_of_choices():
    def pairs(combinations):
        return {pair for c in combinations for pair in itertools.combinations(c, 2)}

    assert pairs(sample()) == pairs(EVERY)


@pytest.mark.parametrize("mode, kind", EVERY_IN)
def test_every_combination(fleets, references, mode, kind):
    fleet = fleets("every", tf_adadelta.Adadelta, KINDS[kind][0])
    steps = EAGER_STEPS if mode == "eager" else STEPS
    check(fleet, mode, kind, steps, references("every", kind), missing=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_variable_without_a_gradient_in_some_steps(fleets, references, mode, kind):
    fleet = fleets("sample", tf_adadelta.Adadelta, KINDS[kind][0])
    check(fleet, mode, kind, STEPS, references("sample", kind), missing=True)


def test_every_option_bites(references):
    """Another choice gives another result; else the comparisons above would show nothing."""
    absolute, relative = (10 * tolerance for tolerance in TOLERANCES["float32"])
    reference = references("every", "float32")[STEPS]
    results = {c: reference[" + ".join(c)][0] for c in EVERY}

    def differ(one, other):
        return any(
            one[name].shape == other[name].shape
            and not np.allclose(one[name], other[name], relative, absolute)
            for name in one.keys() & other.keys()
            if "wrapper" not in name and name != "iteration"
        )

    for combination, result in results.items():
        for factor, choices in enumerate(CHOICES.values()):
            for choice in choices.keys() - {combination[factor]}:
                other = (*combination[:factor], choice, *combination[factor + 1 :])
                if {choice, combination[factor]} == {"no ema", "use_ema"}:
                    continue  # The averages are all that is new.
                assert differ(result, results[other]), (combination, choice)
        averages = {name for name in result if name.endswith("average")}
        assert bool(averages) == ("no ema" not in combination)
        if "use_ema" in combination:
            assert differ(result, {name[: -len("_average")]: result[name] for name in averages})
