"""The update in float64 NumPy, rounded once a step to the storage dtype: what is right."""

import ml_dtypes
import numpy as np

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}

# Absolute, and relative to the largest magnitude that an element has had. For the 16-bit types the
# latter is two units in the last place: where a value lies between two, arithmetic in float32 may
# round another way than arithmetic in float64, and the next step starts from there.
TOLERANCES = {
    "float16": (1e-4, 2e-3),
    "bfloat16": (1e-3, 1.6e-2),
    "float32": (1e-6, 1e-5),
    "float64": (1e-14, 1e-13),
}

ROLES = ("variables", "accums", "accum_updates")


class Oracle:
    """A list of variables with their states, in float64.

    Args:
        shapes: The shapes of the variables.
        dtype: The name of the storage dtype, to which each step rounds.
        seed: Of the initial values and of the gradients.
    """

    def __init__(self, shapes, dtype, seed=0):
        self.dtype = DTYPES[dtype]
        self.tolerance = TOLERANCES[dtype]
        self.rng = np.random.default_rng(seed)
        self.shapes = shapes
        self.values = {
            "variables": [self.store(self.rng.standard_normal(shape)) for shape in shapes],
            "accums": [self.store(self.rng.random(shape)) for shape in shapes],
            "accum_updates": [self.store(0.01 * self.rng.random(shape)) for shape in shapes],
        }
        self.largest = {role: [np.abs(v) for v in values] for role, values in self.values.items()}

    def store(self, values):
        return np.asarray(values).astype(self.dtype).astype(np.float64)

    def stored(self, role):
        """Copies of the values of a role in the storage dtype."""
        return [value.astype(self.dtype) for value in self.values[role]]

    def new_grads(self):
        return [self.rng.standard_normal(shape).astype(self.dtype) for shape in self.shapes]

    def step(self, grads, learning_rate, rho=0.95, epsilon=1e-7):
        for i, grad in enumerate(grads):
            x, a, u = (self.values[role][i] for role in ROLES)
            x, a, u = update(x, a, u, grad.astype(np.float64), learning_rate, rho, epsilon)
            for role, value in zip(ROLES, (x, a, u)):
                self.values[role][i] = self.store(value)
                self.largest[role][i] = np.maximum(self.largest[role][i], np.abs(value))

    def sparse_step(self, grads, indices, learning_rate, rho=0.95, epsilon=1e-7, lazy=False):
        """The dense step of the same gradients, except that rows without one are not rounded.

        With `lazy` they do not even decay.
        """
        before = {role: list(values) for role, values in self.values.items()}
        dense = [
            densify(grad, rows, shape) for grad, rows, shape in zip(grads, indices, self.shapes)
        ]
        self.step(dense, learning_rate, rho, epsilon)
        for role, values in self.values.items():
            decay = 1.0 if lazy or role == "variables" else rho
            for i, rows in enumerate(indices):
                idle = np.setdiff1d(np.arange(self.shapes[i][0]), rows)
                values[i][idle] = decay * before[role][i][idle]

    def new_slices(self, indices):
        """A gradient with a row for each index, for each variable."""
        return [
            self.rng.standard_normal((len(rows), *shape[1:])).astype(self.dtype)
            for rows, shape in zip(indices, self.shapes)
        ]

    def check(self, *values):
        """Checks the values of all roles, in their order."""
        absolute, relative = self.tolerance
        assert len(values) == len(self.values)
        for role, actual in zip(self.values, values):
            assert len(actual) == len(self.shapes)
            for i, value in enumerate(actual):
                value = np.asarray(value)
                assert value.shape == tuple(self.shapes[i])
                assert value.dtype == self.dtype
                error = np.abs(value.astype(np.float64) - self.values[role][i])
                bound = absolute + relative * self.largest[role][i]
                assert np.all(error <= bound), f"{role}[{i}]: off by up to {np.max(error / bound)}"


class OptionsOracle(Oracle):
    """An oracle of the step with everything that may be done around it.

    Args:
        averages: Whether the variables have moving averages.
        grad_accums: Whether gradients are summed.
        shapes, dtype, seed: As `Oracle` has them.
    """

    def __init__(self, averages, grad_accums, shapes, dtype, seed=0):
        super().__init__(shapes, dtype, seed)
        for role, wanted in (("averages", averages), ("grad_accums", grad_accums)):
            if wanted:
                values = [self.store(self.rng.standard_normal(shape)) for shape in shapes]
                self.values[role] = values
                self.largest[role] = [np.abs(value) for value in values]

    @property
    def roles(self):
        return tuple(self.values)

    def sums(self, grads, grad_scale):
        """What the norms are asked of."""
        sums = [grad_scale * grad.astype(np.float64) for grad in grads]
        if "grad_accums" in self.values:
            sums = [grad + accum for grad, accum in zip(sums, self.values["grad_accums"])]
        return sums

    def options_step(self, grads, learning_rate, options):
        sums = self.sums(grads, options["grad_scale"])
        for i, grad in enumerate(sums):
            now = {role: values[i] for role, values in self.values.items()}
            if "grad_accums" in now:
                now["grad_accums"] = 0 * grad if options["update"] else grad
            if options["update"]:
                limit = options["clipvalue"]
                grad = np.clip(options["clip_factors"][i] * grad, -limit, limit)
                x, a, u = (now[role] for role in ROLES)
                x = x - learning_rate * options["weight_decay"] * x
                now.update(zip(ROLES, update(x, a, u, grad, learning_rate)))
            if "averages" in now:
                momentum = options["ema_momentum"]
                now["averages"] = momentum * now["averages"] + (1 - momentum) * now["variables"]
            for role, value in now.items():
                self.values[role][i] = self.store(value)
                self.largest[role][i] = np.maximum(self.largest[role][i], np.abs(value))


def densify(grad, indices, shape):
    """The gradient that a sparse one stands for, in float64."""
    dense = np.zeros(shape)
    np.add.at(dense, np.asarray(indices, int), np.asarray(grad).astype(np.float64))
    return dense


def update(x, a, u, g, learning_rate, rho=0.95, epsilon=1e-7):
    """One step of Zeiler (2012), Algorithm 1, with a learning rate."""
    a = rho * a + (1 - rho) * g**2
    delta = g * np.sqrt(u + epsilon) / np.sqrt(a + epsilon)
    u = rho * u + (1 - rho) * delta**2
    return x - learning_rate * delta, a, u


def sum_rows(rows, dtype):
    """The gradients of a row summed as row_sums.h has it, to the bit."""
    parts = []
    while len(rows):
        size = next(size for size in (4096, 64, 1) if len(rows) >= size)
        group, rows = rows[:size], rows[size:]
        if size == 4096:
            group = [_sum_in_order(group[i : i + 64], dtype) for i in range(0, size, 64)]
        parts.append(_sum_in_order(group, dtype))
    return _sum_in_order(parts, dtype)


def _sum_in_order(rows, dtype):
    total = np.array(rows[0], dtype)
    for row in rows[1:]:
        total = total + row.astype(dtype)
    return total
