"""Training under a `tf.distribute` strategy, as a program: a process has one strategy only.

`python replicas.py STRATEGY [REGEX]` runs every check, or those with such a name, and prints a line
of JSON for each: its name, what went wrong (null if nothing did), and what the stock class said
where that fails. test_distribute.py runs it and reads the lines.
"""

import functools
import json
import os
import re
import sys
import tempfile
import traceback
import warnings

import numpy as np
import tensorflow as tf

STRATEGIES = {
    "one": lambda: tf.distribute.OneDeviceStrategy("CPU:0"),
    "mirrored2": lambda: tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]),
    "mirrored4": lambda: tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)]),
    "central": lambda: tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"]),
}
UPDATES_ON = {  # The devices on which an update runs.
    "one": ["CPU:0"],
    "mirrored2": ["CPU:0", "CPU:1"],
    "mirrored4": ["CPU:0", "CPU:1", "CPU:2", "CPU:3"],
    "central": ["CPU:0"],
}
APIS = ("keras", "tf_keras", "legacy", "v1")
STEPS, BATCH = 20, 24
CHECKS = {}

if __name__ == "__main__":
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 4
    )
    import keras
    import tf_keras

    import tf_adadelta
    from tf_adadelta import tf_keras as fused

    OPTIMIZERS = {  # By API: the stock class and ours.
        "keras": (keras.optimizers.Adadelta, tf_adadelta.Adadelta),
        "tf_keras": (tf_keras.optimizers.Adadelta, fused.Adadelta),
        "legacy": (tf_keras.optimizers.legacy.Adadelta, fused.legacy.Adadelta),
        "v1": (tf.compat.v1.train.AdadeltaOptimizer, tf_adadelta.compat.v1.AdadeltaOptimizer),
    }

RNG = np.random.default_rng(0)
INDICES = RNG.integers(0, 11, (2 * STEPS, BATCH)) * (RNG.random((2 * STEPS, BATCH)) < 0.4)
TARGETS = RNG.standard_normal((2 * STEPS, BATCH)).astype(np.float32)
START = [RNG.standard_normal(shape).astype(np.float32) for shape in [(13, 3), (3, 4), (4,)]]


def check(*params):
    """Registers a check, once for each parameter that it takes besides the strategy."""

    def register(function):
        base = function.__name__.removeprefix("check_")
        for param in params or (None,):
            name = base if param is None else f"{base}[{param}]"
            CHECKS[name] = function if param is None else functools.partial(function, param)
        return function

    return register


class Training:
    """A small network with an embedding in training.

    Args:
        strategy: The strategy, None for none.
        api: One of `APIS`.
        make: The class of the optimizer.
        dense: Whether the gradient of the embedding is made dense.
        compiled: `tf.function`, or None for eager execution.
        apply_options: For `apply_gradients`.
        wrap: Called with the optimizer, returns the one that is used.
        **options: Of the optimizer.
    """

    def __init__(
        self,
        strategy,
        api,
        make,
        dense=False,
        compiled=tf.function,
        apply_options=None,
        wrap=lambda optimizer: optimizer,
        constraint=None,
        **options,
    ):
        self.strategy = strategy or tf.distribute.get_strategy()
        self.api = api
        self.dense = dense
        self.apply_options = apply_options or {}
        self.number = 0
        with self.strategy.scope():
            if api == "keras":
                self.variables = [
                    keras.Variable(value, name=f"v{i}") for i, value in enumerate(START)
                ]
            else:
                self.variables = [
                    tf.Variable(value, name=f"v{i}", constraint=constraint if i else None)
                    for i, value in enumerate(START)
                ]
            self.inner = make(**{"learning_rate": 0.5, "epsilon": 1e-7, **options})
            self.optimizer = wrap(self.inner)
            if hasattr(self.optimizer, "build"):
                self.optimizer.build(self.variables)
        self.step = compiled(self._step) if compiled else self._step

    def _replica(self, indices, targets):
        raw = [v.value if self.api == "keras" else v for v in self.variables]
        scaled = self.optimizer is not self.inner
        with tf.GradientTape() as tape:
            rows = tf.gather(raw[0], indices)
            outputs = tf.reduce_sum(tf.tanh(rows @ tf.convert_to_tensor(raw[1]) + raw[2]), axis=1)
            loss = tf.reduce_sum(outputs * targets) / BATCH
            if scaled and self.api == "keras":
                loss = self.optimizer.scale_loss(loss)
            elif scaled:
                loss = self.optimizer.get_scaled_loss(loss)
        grads = tape.gradient(loss, raw)
        if self.dense:
            grads[0] = tf.convert_to_tensor(grads[0])
        if scaled and self.api != "keras":
            grads = self.optimizer.get_unscaled_gradients(grads)
        self.optimizer.apply_gradients(list(zip(grads, self.variables)), **self.apply_options)

    def _step(self, indices, targets):
        self.strategy.run(self._replica, args=(indices, targets))

    def batch(self):
        """The next batch, shared out among the replicas."""
        size = BATCH // self.strategy.num_replicas_in_sync

        def part(values, context):
            first = size * context.replica_id_in_sync_group
            return tf.constant(values[self.number][first : first + size])

        return [
            self.strategy.experimental_distribute_values_from_function(
                functools.partial(part, values)
            )
            for values in (INDICES, TARGETS)
        ]

    def train(self, steps=STEPS):
        for _ in range(steps):
            self.step(*self.batch())
            self.number += 1
        return self

    def _slots(self):
        if self.api == "keras":
            return self.inner._accumulated_grads, self.inner._accumulated_delta_vars
        if self.api == "tf_keras":
            return self.inner._accumulated_grads, self.inner._accumulated_delta_vars
        return [
            [self.inner.get_slot(variable, name) for variable in self.variables]
            for name in self.inner.get_slot_names()
        ]

    def everything(self):
        """The variables and both slots of each."""
        accums, accum_updates = self._slots()
        return [*self.variables, *accums, *accum_updates]

    def values(self):
        return [np.array(variable.numpy()) for variable in self.everything()]

    def replicas(self):
        """What each replica has stored of all that: the same bits."""
        stored = [v._value if isinstance(v, keras.Variable) else v for v in self.everything()]
        return list(zip(*([c.numpy() for c in getattr(v, "values", (v,))] for v in stored)))

    def calls(self):
        """The ops of an update in the graph of a step, as pairs of type and device."""
        graph = self.step.get_concrete_function(*self.batch()).graph.as_graph_def()
        nodes = [*graph.node, *(node for body in graph.library.function for node in body.node_def)]
        return sorted(
            (node.op, node.device.split("device:")[-1]) for node in nodes if "Adadelta" in node.op
        )


def stock(strategy, api, **options):
    return Training(strategy, api, OPTIMIZERS[api][0], **options)


def ours(strategy, api, **options):
    return Training(strategy, api, OPTIMIZERS[api][1], **options)


def assert_close(actual, expected, scale=1):
    assert len(actual) == len(expected)
    for i, (a, e) in enumerate(zip(actual, expected)):
        np.testing.assert_allclose(
            a, e, atol=1e-6 * scale, rtol=1e-5 * scale, err_msg=f"number {i}"
        )


def assert_same_bits(actual, expected):
    for i, (a, e) in enumerate(zip(actual, expected)):
        assert np.asarray(a).tobytes() == np.asarray(e).tobytes(), f"number {i}"


def assert_replicas_agree(training):
    first, *others = training.replicas()
    for other in others:
        assert_same_bits(other, first)


STOCK_FAILS = []  # What the stock class said in the check that runs.


def check_both(run):
    """Compares a run of the stock class with one of ours; where the former fails, so must ours.

    Args:
        run: Called with `stock` or `ours`, returns arrays.

    Returns:
        Whether the stock class works.
    """
    try:
        expected = run(stock)
    except Exception as error:
        STOCK_FAILS.append(f"{type(error).__name__}: {in_short(error)}")
        try:
            run(ours)
        except type(error) as same:
            assert in_short(same)[:40] == in_short(error)[:40]  # The rest names the variables.
            return False
        raise AssertionError(f"only the stock class fails: {error}") from error
    assert_close(run(ours), expected)
    return True


def in_short(error):
    """What an error says, without the places in the user's code that autograph names first."""
    lines = [line.strip() for line in str(error).splitlines()]
    if lines and lines[0] == "in user code:":
        lines = [line for line in lines if re.match(r"\w*(Error|Exception): ", line)]
    return lines[0][:200] if lines else ""


@functools.cache
def one_replica(api, kind):
    """What the stock class makes of the whole batches, without a strategy: what is right."""
    if kind == "lazy":  # As the legacy class has it; rows of equal indices are summed.
        training = stock(None, "v1" if api == "v1" else "legacy")
    else:
        training = stock(None, api, dense=True)
    return training.train().values()


# The update.


@check(*(f"{api}-{kind}" for api in APIS for kind in ("dense", "exact", "lazy")))
def check_same_as_one_replica_and_stock(case, strategy):
    api, kind = case.split("-")
    options = {} if kind == "dense" else {"sparse_update": kind}
    training = ours(strategy, api, dense=kind == "dense", **options).train()
    assert np.abs(training.values()[0] - START[0]).max() > 1e-3
    assert_close(training.values(), one_replica(api, kind))
    assert_replicas_agree(training)
    if kind == "dense" or (kind == "lazy" and api in ("legacy", "v1")):
        assert_close(
            training.values(), stock(strategy, api, dense=kind == "dense").train().values()
        )
    sparse = kind == "lazy" or (kind == "exact" and api == "keras")
    ops = ["FusedAdadeltaApply", "FusedAdadeltaSparseApply"][: 1 + sparse]
    assert training.calls() == [(op, device) for op in ops for device in UPDATES_ON[NAME]]


@check(*APIS)
def check_eager_is_the_graph(api, strategy):
    training = ours(strategy, api, compiled=None).train(6)
    assert_close(training.values(), ours(strategy, api).train(6).values())
    assert_replicas_agree(training)


@check("keras", "tf_keras", "legacy")
def check_without_merge_calls(api, strategy):
    """Each replica updates its own variables, as on several GPUs under XLA.

    No clock can be created there, so the update is the dense one.
    """
    if NAME == "central":
        return  # Never so.
    kept = strategy.extended._use_merge_call
    strategy.extended._use_merge_call = lambda: False
    try:
        training = ours(strategy, api, sparse_update="exact").train()
    finally:
        strategy.extended._use_merge_call = kept
    assert_close(training.values(), one_replica(api, "exact"))
    assert_replicas_agree(training)
    assert training.calls() == [("FusedAdadeltaApply", device) for device in UPDATES_ON[NAME]]


@check("keras")
def check_dense_and_sparse_in_turn(api, strategy):
    """Rows that lag behind catch up on every replica before a dense update."""
    expected = stock(strategy, api, dense=True).train(9)
    training = ours(strategy, api)
    for _ in range(3):
        training.dense = False
        training.step = tf.function(training._step)
        training.train(2)
        training.dense = True
        training.step = tf.function(training._step)
        training.train(1)
    assert_close(training.values(), expected.values())
    assert_replicas_agree(training)


@check("keras")
def check_new_rho(api, strategy):
    trainings = [ours(strategy, api), stock(strategy, api, dense=True)]
    for rho in (0.95, 0.7):
        for training in trainings:
            training.inner.rho = rho
            training.step = tf.function(training._step)
            training.train(4)
    assert_close(*(training.values() for training in trainings))
    assert_replicas_agree(trainings[0])


@check("tf_keras", "legacy", "v1")
def check_no_aggregation(api, strategy):
    """Each replica keeps to its own gradient, where the caller says that it is summed already."""
    options = {
        "tf_keras": {"experimental_aggregate_gradients": False},
        "legacy": {"experimental_aggregate_gradients": False},
        "v1": {"skip_gradients_aggregation": True},
    }[api]

    def run(make):
        training = make(strategy, api, dense=True, apply_options=options).train(4)
        return [*training.values(), *map(np.stack, zip(*training.replicas()))]

    check_both(run)


@check(*APIS)
def check_variables_without_a_scope(api, strategy):
    """Variables with replicas, updated outside of the scope that made them.

    There the stock class of v1 makes slots without replicas, and updates the first replica only.
    """

    def run(make):
        training = make(strategy, api, dense=True, compiled=None)
        for _ in range(3):
            grads = [tf.ones_like(value) * 0.3 for value in START]
            training.inner.apply_gradients(list(zip(grads, training.variables)))
        if make is ours:
            assert_replicas_agree(training)
        return training.values()

    if api == "v1" and "mirrored" in NAME:
        try:
            run(ours)
        except RuntimeError as error:  # TF_ADADELTA_STRICT=1.
            assert "slots were made outside" in str(error)
        else:
            raise AssertionError("no error")
    else:
        check_both(run)


@check("legacy")
def check_constraint(api, strategy):
    options = {"constraint": lambda v: tf.clip_by_value(v, -0.7, 0.7)}
    trainings = [make(strategy, api, **options).train(6) for make in (ours, stock)]
    assert_close(*(training.values() for training in trainings))
    assert_replicas_agree(trainings[0])


# What is around it.

OPTIONS = {
    "clipnorm": {"clipnorm": 0.05},
    "global_clipnorm": {"global_clipnorm": 0.05},
    "clipvalue": {"clipvalue": 0.01},
    "decay": {"weight_decay": 0.1},
    "ema": {"use_ema": True, "ema_momentum": 0.8},
    "overwrite": {"use_ema": True, "ema_momentum": 0.8, "ema_overwrite_frequency": 3},
    "scale": {"loss_scale_factor": 3.0},
    "all": {"global_clipnorm": 0.05, "weight_decay": 0.1, "use_ema": True, "ema_momentum": 0.8},
    "accumulation": {"gradient_accumulation_steps": 3},
}


@check(
    *(f"keras-{name}" for name in OPTIONS),
    *(f"tf_keras-{name}" for name in ("clipnorm", "decay", "all")),
    *(f"legacy-{name}" for name in ("clipnorm", "global_clipnorm", "clipvalue")),
)
def check_options(case, strategy):
    """They mean what they mean in the stock class; where that fails, so do we."""
    api, name = case.split("-")
    calls = []

    def run(make):
        training = make(strategy, api, dense=True, **OPTIONS[name]).train(7)
        calls[:] = training.calls()
        state = training.inner.variables
        state = state() if callable(state) else state
        return [*training.values(), *(np.array(v.numpy()) for v in state)]

    if check_both(run):
        assert calls == [("FusedAdadeltaApply", device) for device in UPDATES_ON[NAME]]


@check("clipvalue", "decay", "ema", "all")
def check_options_with_an_exact_sparse_gradient(name, strategy):
    options = OPTIONS[name]
    if "clip" in name or name == "all":  # Each replica clips before they are summed, rows or not.
        options = {**options, "clipvalue": 10.0}
        options.pop("global_clipnorm", None)
    check_both(
        lambda make: make(strategy, "keras", dense=make is stock, **options).train(7).values()
    )


@check("keras", "fused", "tf_keras")
def check_loss_scale(kind, strategy):
    api = "tf_keras" if kind == "tf_keras" else "keras"
    wrap = {
        "keras": lambda inner: keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0),
        "fused": lambda inner: (
            tf_adadelta.LossScaleOptimizer
            if isinstance(inner, tf_adadelta.Adadelta)
            else keras.optimizers.LossScaleOptimizer
        )(inner, initial_scale=8.0),
        "tf_keras": lambda inner: tf_keras.mixed_precision.LossScaleOptimizer(
            inner, initial_scale=8.0
        ),
    }[kind]
    check_both(lambda make: make(strategy, api, dense=make is stock, wrap=wrap).train(5).values())


# Saving.


def checkpoint_of(training):
    return tf.train.Checkpoint(optimizer=training.optimizer, variables=training.variables)


@check(*APIS)
def check_saved_and_restored(api, strategy):
    """A restart goes on with the bits of the run that was not interrupted."""
    with tempfile.TemporaryDirectory() as folder:
        training = ours(strategy, api, sparse_update="exact").train(7)
        path = checkpoint_of(training).save(f"{folder}/checkpoint")
        restored = ours(strategy, api, sparse_update="exact")
        restored.number = training.number
        with strategy.scope():
            checkpoint_of(restored).restore(path)
            restored.train(6)
        into_lagging = ours(strategy, api, sparse_update="exact").train(5)
        into_lagging.number = training.number
        checkpoint_of(into_lagging).restore(path)
        into_lagging.train(6)
        elsewhere = ours(None, api, sparse_update="exact")
        elsewhere.number = training.number
        checkpoint_of(elsewhere).restore(path)
        elsewhere.train(6)
        training.train(6)
        for other in (restored, into_lagging):
            assert_same_bits(other.values(), training.values())
            assert_replicas_agree(other)
        assert_close(elsewhere.values(), training.values())


@check(*APIS)
def check_checkpoints_of_stock(api, strategy):
    """Checkpoints of either class load into the other."""
    with tempfile.TemporaryDirectory() as folder:
        expected = stock(strategy, api, dense=True).train(6)
        path = checkpoint_of(expected).save(f"{folder}/stock")
        training = ours(strategy, api, sparse_update="exact").train(2)
        checkpoint_of(training).restore(path)
        training.number = expected.number
        training.train(4)
        path = checkpoint_of(training).save(f"{folder}/ours")
        back = stock(strategy, api, dense=True).train(1)  # v1 creates slots where it restores.
        checkpoint_of(back).restore(path)
        back.number = training.number
        assert_close(back.train(3).values(), expected.train(7).values())


@check("keras")
def check_saved_model(api, strategy):
    with tempfile.TemporaryDirectory() as folder:
        training = ours(strategy, api).train(5)
        module = tf.Module()
        module.slots = training.everything()
        tf.saved_model.save(module, folder)
        loaded = tf.saved_model.load(folder)
        assert_close([slot.numpy() for slot in loaded.slots], training.values())


@check("keras")
def check_a_save_changes_no_value_and_a_read_no_bit(api, strategy):
    def train(look):
        training = ours(strategy, api)
        for _ in range(4):
            training.train(2)
            if look:
                training.values()
                with strategy.scope():
                    training.values()
                tf.function(lambda t=training: [slot + 0.0 for slot in t.everything()[3:]])()
        return training.values()

    assert_same_bits(train(True), train(False))
    training = ours(strategy, api).train(5)
    before = training.values()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint_of(training).save(f"{folder}/checkpoint")
    assert_same_bits(training.values(), before)


# Models.


def embedding_model(kit, optimizer, **options):
    kit.utils.set_random_seed(0)
    model = kit.Sequential(
        [
            kit.layers.Input((4,), dtype="int32"),
            kit.layers.Embedding(50, 8),
            kit.layers.Flatten(),
            kit.layers.Dense(1),
        ]
    )
    model.compile(optimizer=optimizer, loss="mse", **options)
    return model


def fit(model):
    rng = np.random.default_rng(0)
    x, y = rng.permutation(48).reshape(12, 4), rng.standard_normal((12, 1))  # No row twice.
    history = model.fit(x, y, epochs=6, batch_size=4, shuffle=False, verbose=0)
    return [*history.history["loss"], *(np.array(w) for w in model.get_weights())]


@check("keras", "tf_keras", "legacy", "jit")
def check_fit(case, strategy):
    api = "keras" if case == "jit" else case
    kit = keras if api == "keras" else tf_keras
    options = {"jit_compile": case == "jit"}

    def run(make):
        with strategy.scope():
            optimizer = OPTIMIZERS[api][make is ours](learning_rate=1.0)
            return fit(embedding_model(kit, optimizer, **options))

    check_both(run)


@check(*APIS)
def check_jit(api, strategy):
    """On one device; where XLA cannot compile the stock step, it does not compile ours."""
    compiled = functools.partial(tf.function, jit_compile=True)
    works = check_both(
        lambda make: make(strategy, api, dense=True, compiled=compiled).train(5).values()
    )
    assert works or NAME != "one" or api == "v1"
    if works and api == "keras":
        training = ours(strategy, api, compiled=compiled).train()
        assert_close(training.values(), one_replica(api, "exact"))


def main():
    strategy = STRATEGIES[NAME]()
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    for name, function in CHECKS.items():
        if not re.search(wanted, name):
            continue
        error = None
        STOCK_FAILS.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                function(strategy)
            except Exception:
                error = traceback.format_exc()
        result = {"check": name, "error": error, "stock_fails": STOCK_FAILS}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    NAME = sys.argv[1]
    os.environ["TF_ADADELTA_STRICT"] = "1"
    main()
