"""A small model with an embedding table, trained under any strategy. Needs no pytest."""

import numpy as np
import tensorflow as tf

ROWS, WIDTH, FEATURES, UNITS = 23, 4, 3, 5
BATCH = 12
LEARNING_RATE, EPSILON = 0.5, 1e-3
APIS = ("keras", "tf_keras", "legacy", "v1")
BY_HAND = {"tf_keras": "skip_gradients_aggregation", "legacy": "experimental_aggregate_gradients"}
SLOT_NAMES = {"legacy": ("accum_grad", "accum_var"), "v1": ("accum", "accum_update")}


def optimizer_class(api, fused):
    """Returns the class of an API: "keras", "tf_keras", "legacy" (of tf_keras), or "v1"."""
    if fused:
        import tf_adadelta

        if api == "keras":
            return tf_adadelta.Adadelta
        if api == "v1":
            return tf_adadelta.compat.v1.AdadeltaOptimizer
        classes = tf_adadelta.tf_keras
        return classes.legacy.Adadelta if api == "legacy" else classes.Adadelta
    if api == "keras":
        import keras

        return keras.optimizers.Adadelta
    if api == "v1":
        return tf.compat.v1.train.AdadeltaOptimizer
    import tf_keras

    classes = tf_keras.optimizers
    return classes.legacy.Adadelta if api == "legacy" else classes.Adadelta


def batch(step):
    """Returns ids, features and labels of one step, the same in every process.

    Ids come several times: within an example, within a replica's share, and in several shares.
    """
    rng = np.random.default_rng(step)
    ids = rng.zipf(1.4, (BATCH, 3)) % ROWS
    features = rng.standard_normal((BATCH, FEATURES))
    labels = rng.standard_normal((BATCH, UNITS))
    return ids.astype(np.int32), features.astype(np.float32), labels.astype(np.float32)


class Training:
    """The model and its optimizer, trained by a custom loop.

    Args:
        strategy: Under which the variables are made.
        api: One of `APIS`.
        fused: Whether the optimizer is ours.
        mode: "dense"; how the sparse gradient of the table is meant, "exact" or "lazy" (a stock
            optimizer gets a dense gradient for "exact", and is lazy or not as it is); or, with
            dense gradients, "summed by hand" or "jit_compile".
        **options: For the optimizer.
    """

    def __init__(self, strategy, api, fused, mode, **options):
        self.strategy, self.api, self.mode = strategy, api, mode
        sparse = mode in ("exact", "lazy")
        self.densify = not sparse or (mode == "exact" and not fused)
        self.calls = []
        if fused and sparse:
            options["sparse_update"] = mode
        rng = np.random.default_rng(0)
        shapes = ((ROWS, WIDTH), (WIDTH + FEATURES, UNITS), (UNITS,))
        values = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
        with strategy.scope():
            self.table, self.kernel, self.bias = map(self._make_variable, values, "tkb")
            wholes = {"table": self.table, "kernel": self.kernel, "bias": self.bias}
            # What a strategy has cut into shards is trained shard by shard.
            shards = {name: getattr(_raw(v), "variables", [v]) for name, v in wholes.items()}
            self.owners = [name for name, parts in shards.items() for _ in parts]
            self.parts = [part for parts in shards.values() for part in parts]
            make = optimizer_class(api, fused)
            self.optimizer = make(learning_rate=LEARNING_RATE, epsilon=EPSILON, **options)
            if api in ("keras", "tf_keras"):
                self.optimizer.build(self.parts)
        jit_compile = True if mode == "jit_compile" else None
        self.step = tf.function(self._step, autograph=False, jit_compile=jit_compile)

    def _make_variable(self, value, name):
        if self.api == "keras":
            import keras

            return keras.Variable(value, name=name)
        return tf.Variable(value, name=name)

    def _step(self, ids, features, labels):
        losses = self.strategy.run(self._replica_step, args=(ids, features, labels))
        loss = self.strategy.reduce("SUM", losses, axis=None)
        self.calls = [
            f"{operation.type} on {operation.device}"
            for operation in tf.compat.v1.get_default_graph().get_operations()
            if operation.type.startswith("FusedAdadelta")
        ]
        return loss

    def _replica_step(self, ids, features, labels):
        with tf.GradientTape() as tape:
            rows = tf.nn.embedding_lookup(_raw(self.table), ids)
            inputs = tf.concat([tf.reduce_mean(rows, axis=1), features], axis=1)
            outputs = tf.matmul(inputs, _raw(self.kernel)) + _raw(self.bias)
            loss = tf.reduce_sum(tf.square(tf.tanh(outputs) - labels)) / BATCH
        grads = tape.gradient(loss, list(map(_raw, self.parts)))
        if self.densify:
            grads = [tf.convert_to_tensor(grad) for grad in grads]
        options = {}
        if self.mode == "summed by hand":
            grads = tf.distribute.get_replica_context().all_reduce("SUM", grads)
            options[BY_HAND[self.api]] = self.api == "tf_keras"
        self.optimizer.apply_gradients(zip(grads, self.parts), **options)
        return loss

    def run(self, steps, first=0):
        """Trains under a strategy of replicas that wait for each other; returns the losses."""
        count = self.strategy.num_replicas_in_sync
        losses = []
        for number in range(first, first + steps):
            arrays = batch(number)
            shares = [np.array_split(array, count) for array in arrays]
            values = [
                self.strategy.experimental_distribute_values_from_function(
                    lambda context, share=share: tf.constant(
                        share[context.replica_id_in_sync_group]
                    )
                )
                for share in shares
            ]
            losses.append(float(self.step(*values)))
        return losses

    def run_by(self, coordinator, steps, first=0):
        """Trains on the workers of a coordinator, one step after the other; returns the losses."""
        losses = []
        for number in range(first, first + steps):
            arrays = map(tf.constant, batch(number))
            result = coordinator.schedule(self.step, args=tuple(arrays))
            coordinator.join()
            losses.append(float(result.fetch()))
        return losses

    def variables(self):
        """Returns what a step changes, by name: whole tables, whatever they are cut into."""
        found = {}
        for role, parts in zip(("variable", "accum", "accum_update"), zip(*self._slots())):
            for name, part in zip(self.owners, parts):
                found.setdefault(f"{role} {name}", []).append(part)
        return found

    def state(self):
        """Returns the values of `variables` as arrays."""
        return {
            name: np.concatenate([np.asarray(_read(part)) for part in parts])
            for name, parts in self.variables().items()
        }

    def replicas(self):
        """Returns the values of `variables` on each replica of this process."""
        return {
            name: [
                np.concatenate(values)
                for values in zip(
                    *([np.asarray(local) for local in self._local_values(part)] for part in parts)
                )
            ]
            for name, parts in self.variables().items()
        }

    def _local_values(self, variable):
        value = getattr(variable, "stored", None)
        value = _raw(variable) if value is None else value
        return [local.numpy() for local in self.strategy.experimental_local_results(value)]

    def _slots(self):
        if self.api in SLOT_NAMES:
            return [
                (part, *(self.optimizer.get_slot(part, name) for name in SLOT_NAMES[self.api]))
                for part in self.parts
            ]
        return list(
            zip(
                self.parts,
                self.optimizer._accumulated_grads,
                self.optimizer._accumulated_delta_vars,
            )
        )


def fit(strategy, api, fused):
    """Trains two dense layers by `fit`; returns the losses and all variables by name."""
    if api == "keras":
        import keras
    else:
        import tf_keras as keras
    keras.utils.set_random_seed(0)
    with strategy.scope():
        layers = [keras.layers.Dense(UNITS, activation="tanh"), keras.layers.Dense(UNITS)]
        model = keras.Sequential([keras.Input((FEATURES,)), *layers])
        optimizer = optimizer_class(api, fused)(learning_rate=LEARNING_RATE, epsilon=EPSILON)
        model.compile(optimizer, loss="mse", jit_compile=False)
    _, features, labels = batch(0)
    # All batches are the same and an epoch is one step: workers that do not wait for each other
    # then do in any order what one would do.
    data = tf.data.Dataset.from_tensors((features, labels)).repeat()
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    data = data.with_options(options)
    history = model.fit(data, epochs=10, steps_per_epoch=1, verbose=0).history
    variables = optimizer.variables
    variables = variables() if callable(variables) else variables
    named = enumerate([*model.variables, *variables])
    return history["loss"], {f"{i}": _read(variable) for i, variable in named}


def _raw(variable):
    """The TensorFlow variable of a Keras variable."""
    return getattr(variable, "value", variable) if hasattr(variable, "path") else variable


def _read(variable):
    return tf.convert_to_tensor(variable).numpy()
