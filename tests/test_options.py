"""What each option of Keras does with 16-bit variables, infinities, mistakes and sparse gradients.

Every combination of them is compared with stock Keras in test_options_matrix.py.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import KERAS, needs_xla
from fleet import Fleet, Reference, Spec, make_grads, mismatches
from oracle import DTYPES, TOLERANCES, densify
from subprocesses import check_program
from test_optimizer import OPTIMIZERS, assert_close

import tf_adadelta

MODES = ["eager", "graph", pytest.param("jit", marks=needs_xla)]
STOCK = keras.optimizers.Adadelta
EMA = {"use_ema": True, "ema_momentum": 0.8}
CLIPS = {
    "clipnorm": {"clipnorm": 0.5},
    "global_clipnorm": {"global_clipnorm": 0.6},
    "clipvalue": {"clipvalue": 0.1},
}
OTHERS = {
    "loss_scale_factor": {"loss_scale_factor": 3.0},
    "weight_decay": {"weight_decay": 0.04},
    "use_ema": EMA,
    "ema_overwrite": {**EMA, "ema_overwrite_frequency": 2},
    "accumulation": {"gradient_accumulation_steps": 3},
}
ALL = {**OTHERS["ema_overwrite"], **OTHERS["weight_decay"], **OTHERS["accumulation"]}
SHAPES = {"matrix": (5, 7), "vector": (33,), "scalar": ()}


def make_specs(options, **kwargs):
    return [Spec(name, chosen, SHAPES, **kwargs) for name, chosen in options.items()]


@pytest.fixture(autouse=True)
def _fresh_keras():
    """In place of that of conftest.py, which has what was compiled compiled again."""
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def fleets():
    """Returns the fleet of a set of specs, a class and a dtype."""
    made = {}

    def get(specs, make, dtype):
        key = (*(spec.name for spec in specs), make, dtype)
        if key not in made:
            made[key] = Fleet(specs, make, dtype)
        made[key].reset()
        return made[key]

    yield get
    made.clear()


# Closer to the truth.

MANY = {"matrix": (64, 129), "vector": (33,)}  # Few roundings would be a matter of luck.
ACCURACY = [
    dataclasses.replace(spec, shapes=MANY)
    for spec in (
        *make_specs({"plain": {}, **CLIPS, **OTHERS}),
        *make_specs({"LossScaleOptimizer": {}}, scaled=True),
        *make_specs(
            {f"all with {c}": {**ALL, "loss_scale_factor": 3.0, **CLIPS[c]} for c in CLIPS}
        ),
    )
]
ROLES = ("_grad", "_delta_var", "_average", "_accumulator", "")  # What the names end with.


def role_of(name):
    return next(role for role in ROLES if name.endswith(role))


def errors(member, truth):
    """The mean and the largest error of the variables and of each kind of state."""
    found = {}
    for name, value in member.read().items():
        if value.dtype == DTYPES[member.variables[0].dtype] and value.size:
            off = np.abs(value.astype(np.float64) - truth[name]).ravel()
            found.setdefault(role_of(name), []).append(off)
    return {
        role: (np.mean(np.concatenate(offs)), np.max(np.concatenate(offs)))
        for role, offs in found.items()
    }


@pytest.fixture(scope="module")
def accuracy_steps(fleets):
    """Returns the gradients, the truth, and the errors of stock Keras for a dtype."""
    made = {}

    def get(dtype):
        if dtype not in made:
            rng = np.random.default_rng(2)
            steps = [make_grads(rng, MANY.values(), dtype) for _ in range(25)]
            wide = fleets(ACCURACY, STOCK, "float64")
            stock = fleets(ACCURACY, STOCK, dtype)
            for grads in steps:
                wide.step("graph", {s: tf.cast(g, tf.float64) for s, g in grads.items()})
                stock.step("graph", grads)
            truth = wide.read()
            made[dtype] = steps, truth, [errors(*pair) for pair in zip(stock.members, truth)]
        return made[dtype]

    return get


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
def test_sixteen_bit_is_closer_to_the_truth_than_keras(fleets, accuracy_steps, mode, dtype):
    """The truth is Keras in float64, fed the same gradients."""
    steps, truth, stock_errors = accuracy_steps(dtype)
    fleet = fleets(ACCURACY, tf_adadelta.Adadelta, dtype)
    for grads in steps:
        fleet.step(mode, grads)
    lines = []
    for member, right, stock in zip(fleet.members, truth, stock_errors):
        for role, ours in errors(member, right).items():
            # The largest of thousands of sums of roundings is a matter of luck, to some extent.
            for what, luck, our, their in zip(("mean", "largest"), (1.01, 1.15), ours, stock[role]):
                if not our <= luck * their:
                    lines.append(
                        f"{member.spec.name}: {what} error of {role or 'variables'} is {our:.3g}, "
                        f"that of Keras {their:.3g}"
                    )
    assert not lines, "\n".join(lines)


# Gradients that are not finite.

POISONS = {  # One in the second step, in the matrix, and one in the third, in the scalar.
    "nan": (np.nan, np.nan),
    "infinities": (np.inf, -np.inf),
    "overflow": (3e38, -3e38),  # Finite, but the square is not.
}
POISONED = make_specs(
    {
        "plain": {},
        **CLIPS,
        **OTHERS,
        **{
            f"{clip} + {other}": {**CLIPS[clip], **OTHERS[other]}
            for clip, other in itertools.product(CLIPS, OTHERS)
        },
    },
    constrained=("vector",),
)


def poisoned_steps(poison, dtype):
    rng = np.random.default_rng(3)
    for number in range(5):
        grads = make_grads(rng, SHAPES.values(), dtype)
        if number in (1, 2):
            name = "matrix" if number == 1 else "scalar"
            value = np.array(grads[SHAPES[name]].numpy())
            value[(1, 2) if name == "matrix" else ()] = POISONS[poison][number - 1]
            grads[SHAPES[name]] = tf.constant(value)
        yield grads


@pytest.fixture(scope="module")
def poisoned(fleets):
    """Returns what becomes of Keras."""
    made = {}

    def get(poison, dtype):
        if (poison, dtype) not in made:
            fleet = fleets(POISONED, STOCK, dtype)
            for grads in poisoned_steps(poison, dtype):
                fleet.step("graph", grads)
            made[poison, dtype] = fleet.read()
        return made[poison, dtype]

    return get


# In bfloat16, decay and averaging round once more in Keras, and what they round goes into the next
# step: by so many tolerances it drifts away from what is right.
DRIFT = {"float32": 1, "bfloat16": 5}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("poison", POISONS)
def test_gradients_that_are_not_finite(fleets, poisoned, mode, dtype, poison):
    """Whatever becomes of Keras becomes of us: which elements are NaN, which infinite.

    But a norm that overflows in the dtype of the gradients is still right here, where Keras's is
    infinite: `test_a_norm_that_overflows_for_keras`.
    """
    expected = poisoned(poison, dtype)
    fleet = fleets(POISONED, tf_adadelta.Adadelta, dtype)
    for grads in poisoned_steps(poison, dtype):
        fleet.step(mode, grads)
    absolute, relative = (DRIFT[dtype] * tolerance for tolerance in TOLERANCES[dtype])
    lines = []
    for member, state in zip(fleet.members, expected):
        if poison == "overflow" and member.spec.options.keys() & {"clipnorm", "global_clipnorm"}:
            continue
        for name, value in member.read().items():
            value, right = (np.asarray(v, np.float64) for v in (value, state[name]))
            if not np.allclose(value, right, relative, absolute, equal_nan=True):
                lines.append(f"{member.spec.name}: {name} is {value}, not {right}")
    assert not lines, f"{len(lines)} variables differ:\n" + "\n".join(lines[:5])


@pytest.mark.parametrize("clip", ["clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_norm_that_overflows_for_keras(compiled, dtype, clip):
    results = []
    for make, kind in ((tf_adadelta.Adadelta, dtype), (STOCK, "float64")):
        variable = keras.Variable(np.ones(3), dtype=kind)
        optimizer = make(1.0, **{clip: 2.0})
        optimizer.build([variable])
        grad = tf.cast(tf.constant([3e30, -1e30, 0.0], dtype), kind)

        @compiled
        def step(grad):
            optimizer.apply([grad], [variable])  # noqa: B023

        step(grad)
        results.append([np.asarray(v, np.float64) for v in (variable, *optimizer.variables[2:])])
    for actual, expected in zip(*results):
        np.testing.assert_allclose(actual, expected, rtol=1e-2 if dtype == "bfloat16" else 1e-5)


SKIPPING = [
    *make_specs({"plain": {}, **CLIPS, **OTHERS}, scaled=True),
    *make_specs(
        {f"all with {clip}": {**ALL, **CLIPS[clip]} for clip in CLIPS},
        scaled=True,
        excluded=("vector",),
        constrained=("matrix",),
    ),
]
SKIPPING += [
    dataclasses.replace(spec, name=f"{spec.name}, ours around", fused_scale=True)
    for spec in SKIPPING
]


@pytest.mark.parametrize(
    "dtype, mode",
    [
        ("float32", "eager"),
        ("float32", "graph"),
        pytest.param("float32", "jit", marks=needs_xla),
        ("bfloat16", "graph"),
    ],
)
def test_loss_scale_optimizer_skips_the_step(fleets, mode, dtype):
    # Keras fails to add the gradients, which are float32 after the scale, to bfloat16 ones.
    specs = [
        spec
        for spec in SKIPPING
        if dtype == "float32" or "gradient_accumulation_steps" not in spec.options
    ]
    fleet = fleets(specs, tf_adadelta.Adadelta, dtype)
    reference = Reference(fleets(specs, STOCK, "float32"), dtype)
    rng = np.random.default_rng(4)
    for number in range(10):
        grads = make_grads(rng, SHAPES.values(), dtype)
        fine = number not in (1, 4, 5)
        if not fine:
            value = grads[(33,)].numpy()
            value[32] = np.nan if number == 5 else np.inf
            grads[(33,)] = tf.constant(value)
        before = fleet.read()
        fleet.step(mode, grads)
        reference.fleet.step("graph", {s: tf.cast(g, tf.float32) for s, g in grads.items()})
        reference.observe()
        for member, old, new in zip(fleet.members, before, fleet.read()):
            for name in new:
                same = new[name].tobytes() == old[name].tobytes()
                if fine or name in ("wrapper dynamic_scale", "wrapper step_counter"):
                    continue
                assert same, (member.spec.name, name, number)
            if not fine:
                assert new["wrapper dynamic_scale"] == old["wrapper dynamic_scale"] / 2
                assert new["wrapper step_counter"] == 0
        lines = mismatches(fleet, reference.snapshot())
        assert not lines, "\n".join([f"after step {number}:", *lines])


# What Keras rejects.


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0, "clipvalue": 1.0},
        {"clipnorm": 1.0, "global_clipnorm": 1.0},
        {"clipvalue": 1.0, "global_clipnorm": 1.0, "clipnorm": 1.0},
        {"gradient_accumulation_steps": 1},
        {"gradient_accumulation_steps": -3},
        {"gradient_accumulation_steps": "many"},
        {"use_ema": True, "ema_momentum": 2.0},
        {"use_ema": True, "ema_momentum": -0.1},
        {"use_ema": True, "ema_overwrite_frequency": -1},
        {"use_ema": True, "ema_overwrite_frequency": 2.5},
        {"learning_rate": 1},
    ],
    ids=str,
)
def test_rejected_options(options):
    assert error_of(lambda make: make(**options), tf_adadelta.Adadelta) == error_of(
        lambda make: make(**options), STOCK
    )


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 1.0},
        {"use_ema": True},
        {"loss_scale_factor": 2.0},
        {"gradient_accumulation_steps": 2},
        {"dynamic": False},
        {"nonsense": 1},
    ],
    ids=str,
)
def test_options_rejected_by_loss_scale_optimizer(options):
    def wrap(make):
        keras.optimizers.LossScaleOptimizer(make(), **options)

    try:
        wrap(STOCK)
    except (ValueError, TypeError):
        assert error_of(wrap, tf_adadelta.Adadelta) == error_of(wrap, STOCK)
    else:  # As before Keras 3.10.
        wrap(tf_adadelta.Adadelta)


def test_rejected_calls():
    def no_gradients(make):
        make(clipnorm=1.0).apply([None], [keras.Variable(1.0)])

    def unknown_variable(make):
        optimizer = make(use_ema=True)
        optimizer.build([keras.Variable(1.0)])
        optimizer.apply([tf.ones(())], [keras.Variable(1.0, name="other")])

    def too_few_gradients(make):
        optimizer = make(gradient_accumulation_steps=2)
        optimizer.build([keras.Variable(1.0), keras.Variable(1.0)])
        optimizer.apply([tf.ones(())])

    for call in (no_gradients, unknown_variable, too_few_gradients):
        assert error_of(call, tf_adadelta.Adadelta) == error_of(call, STOCK)


def error_of(call, make):
    with pytest.raises((ValueError, TypeError)) as caught:
        call(make)
    return caught.type, str(caught.value)


# Options taken for none, and changed when the optimizer is there.


@pytest.mark.parametrize(
    "options",
    [
        {"clipnorm": 0.0},
        {"global_clipnorm": 0.0},
        {"clipvalue": 0.0},
        {"clipnorm": -1.0},
        {"weight_decay": 0.0},
        {"gradient_accumulation_steps": 0},
        {"use_ema": True, "ema_momentum": 0.0},
        {"use_ema": True, "ema_momentum": 1.0},
        {"use_ema": True, "ema_overwrite_frequency": 0},
        {"use_ema": True, "ema_overwrite_frequency": 1},
        {"ema_momentum": 7.0, "ema_overwrite_frequency": 3},  # Without use_ema.
        {"loss_scale_factor": 1.0},
        {"clipnorm": 1},
        {"weight_decay": -0.1},
    ],
    ids=str,
)
def test_edges(compiled, options):
    run_both(compiled, 3, **options)


def test_options_changed_between_the_steps():
    """As Keras, which looks at its attributes in every step that it does not find compiled."""

    def change(optimizer, number):
        if number == 2:
            optimizer.clipvalue = 0.1
            optimizer.weight_decay = 0.1
            optimizer.loss_scale_factor = 2.0
        elif number == 4:
            optimizer.clipvalue, optimizer.global_clipnorm = None, 0.3
            optimizer.learning_rate = 0.1

    run_both(lambda step: step, 6, between=change)


def run_both(compiled, steps, prepare=None, between=None, shapes=SHAPES, finish=None, **options):
    """Takes both optimizers through the same steps and compares all that they changed."""
    results = []
    for make in OPTIMIZERS:
        variables = [
            keras.Variable(
                np.random.default_rng(5).standard_normal(shape), dtype="float32", name=name
            )
            for name, shape in shapes.items()
        ]
        optimizer = make(**{"learning_rate": 0.5, "epsilon": 1e-3, **options})
        if prepare is not None:
            prepare(optimizer, variables)
        optimizer.build(variables)
        step = compiled(lambda grads: optimizer.apply(grads, variables))  # noqa: B023
        rng = np.random.default_rng(6)
        for number in range(steps):
            if between is not None:
                between(optimizer, number)
            step([tf.constant(rng.standard_normal(v.shape), tf.float32) for v in variables])
        if finish is not None:
            finish(optimizer, variables)
        results.append([*variables, *optimizer.variables])
    assert_close(results[1], results[0])
    return results[0]


# What stays outside of the fused call.


def test_constraints(compiled):
    """On top of all: they bind the variable, not its average."""

    def prepare(optimizer, variables):
        variables[0].constraint = keras.constraints.NonNeg()
        variables[1].constraint = keras.constraints.MaxNorm(0.7)

    matrix, vector, *_ = run_both(compiled, 4, prepare, use_ema=True, weight_decay=0.1)
    assert np.min(matrix.numpy()) == 0.0
    np.testing.assert_allclose(np.linalg.norm(vector.numpy()), 0.7, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"global_clipnorm": 0.3, "loss_scale_factor": 4.0, "weight_decay": 0.1, **EMA},
        {"gradient_accumulation_steps": 3},
        {"gradient_accumulation_steps": 2, "clipnorm": 0.1, **EMA},
    ],
    ids=str,
)
def test_overwrite_with_gradient(compiled, options):
    """The gradient goes into the variable as it is, whatever the options, and into no norm."""

    def prepare(optimizer, variables):
        variables[1].overwrite_with_gradient = True

    run_both(compiled, 6, prepare, **options)


@pytest.mark.skipif(KERAS < (3, 10), reason="Keras raised where no other gradient was left")
def test_only_variables_that_are_overwritten(compiled):
    def prepare(optimizer, variables):
        for variable in variables:
            variable.overwrite_with_gradient = True

    run_both(compiled, 3, prepare, global_clipnorm=0.3, use_ema=True)


@pytest.mark.parametrize("accumulation", [None, 2])
def test_finalize_variable_values(compiled, accumulation):
    def finish(optimizer, variables):
        before = variables[0].numpy()
        optimizer.finalize_variable_values(variables)
        assert np.max(np.abs(variables[0].numpy() - before)) > 1e-3

    run_both(compiled, 5, finish=finish, gradient_accumulation_steps=accumulation, **EMA)


def test_ema_overwrite_frequency(compiled):
    """With accumulation the count is that of the updates, so several steps in a row overwrite."""
    for accumulation in (None, 3):
        for frequency in (1, 3):
            variables = run_both(
                compiled,
                7,
                shapes={"vector": (3,)},
                gradient_accumulation_steps=accumulation,
                ema_overwrite_frequency=frequency,
                **EMA,
            )
            average = next(v for v in variables if v.name.endswith("average"))
            if frequency == 1:
                np.testing.assert_array_equal(variables[0].numpy(), average.numpy())


# Sparse gradients.

ROWS, WIDTH = 11, 3
# With loss_scale_factor Keras fails: it divides what cannot be divided.
SPARSE = {
    "ema_overwrite": OTHERS["ema_overwrite"],
    "accumulation + clipnorm": {"gradient_accumulation_steps": 3, "clipnorm": 0.5},
    **{f"all with {c}": {**ALL, **CLIPS[c]} for c in CLIPS},
    **{f"scaled, all with {c}": {**ALL, **CLIPS[c]} for c in CLIPS},
}


def sparse_steps(count, dtype="float32"):
    """Values and indices of a gradient with duplicates; the dense one; that of another variable."""
    rng = np.random.default_rng(7)
    for number in range(count):
        indices = rng.integers(0, ROWS if number % 2 else 4, 6)
        indices[1] = indices[0]
        values = rng.standard_normal((6, WIDTH)).astype(DTYPES[dtype])
        rest = rng.standard_normal(5).astype(DTYPES[dtype])
        dense = densify(values, indices, (ROWS, WIDTH)).astype(np.float32)
        yield (
            (tf.constant(values), tf.constant(indices), tf.constant(rest)),
            (tf.constant(dense), tf.constant(rest.astype(np.float32))),
        )


@pytest.mark.filterwarnings("ignore:Converting sparse IndexedSlices")
@pytest.mark.parametrize("option", [*SPARSE, *CLIPS])
def test_sparse_gradient_next_to_a_dense_one(compiled, option):
    """As stock Keras with the dense gradient; duplicates it would not sum."""
    scaled = option.startswith("scaled")
    spec = Spec(
        option,
        {**SPARSE, **CLIPS}[option],
        {"table": (ROWS, WIDTH), "rest": (5,)},
        excluded=("rest",) if "all" in option else (),
        constrained=("table",) if "clipnorm" in option else (),
        scaled=scaled,
    )
    fleets = [Fleet([spec], make, "float32") for make in OPTIMIZERS]
    reference, fleet = Reference(fleets[0]), fleets[1]
    optimizer, variables = fleet.members[0].optimizer, fleet.members[0].variables
    step = compiled(
        lambda values, indices, rest: optimizer.apply(
            [tf.IndexedSlices(values, indices, (ROWS, WIDTH)), rest], variables
        )
    )
    for sparse, (dense, rest) in sparse_steps(12):
        step(*sparse)
        reference.fleet.step("eager", {(ROWS, WIDTH): dense, (5,): rest})
    reference.observe()
    lines = mismatches(fleet, reference.snapshot())
    assert not lines, "\n".join(lines)


# Replicas.


def test_mirrored_strategy_clips_before_it_sums():
    """Each replica clips its own gradient; Keras then sums them. So do we."""
    program = """
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras, tf_adadelta
        OPTIONS = [
            {"clipnorm": 0.5},
            {"global_clipnorm": 0.5},
            {"clipvalue": 0.1},
            {"global_clipnorm": 0.5, "weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.8,
             "loss_scale_factor": 3.0},
        ]  # With accumulation Keras fails: it sums over the replicas in a branch.
        GRADS = np.random.default_rng(0).standard_normal((4, 2, 6)).astype("f")  # By step, replica.

        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

        def train(make):
            with strategy.scope():
                made = []
                for options in OPTIONS:
                    variables = [keras.Variable(np.ones(n, "f"), name=f"v{n}") for n in (4, 2)]
                    optimizer = make(learning_rate=0.5, epsilon=1e-3, **options)
                    optimizer.build(variables)
                    made.append((optimizer, variables))

            @tf.function
            def step(grads):
                def replica(grad):
                    for optimizer, variables in made:
                        optimizer.apply([grad[:4], grad[4:]], variables)
                strategy.run(replica, args=(grads,))

            first = None
            for grads in GRADS:
                step(strategy.experimental_distribute_values_from_function(
                    lambda context: tf.constant(grads[context.replica_id_in_sync_group])))
                if first is None:
                    first = made[0][0].variables[2].numpy()
            return first, [v.numpy() for o, vs in made for v in (*vs, *o.variables)]

        (first, stock), (ours_first, ours) = map(
            train, (keras.optimizers.Adadelta, tf_adadelta.Adadelta))
        for a, b in zip(ours, stock):
            np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-5)
        parts = GRADS[0][:, :4]
        clipped = [g * min(1, 0.5 / np.linalg.norm(g)) for g in parts]
        np.testing.assert_allclose(ours_first, 0.05 * sum(clipped) ** 2, rtol=1e-4)
        """
    check_program(program, TF_ADADELTA_STRICT="1")
