"""The optimizer for `tf.compat.v1.train`."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_adadelta import _replicas
from tf_adadelta._dispatch import Dispatcher, StockUpdate


@dataclasses.dataclass
class _Update:
    """What the base class wants done to one variable.

    Attributes:
        variable: The variable.
        grad: Its gradient: a tensor or `tf.IndexedSlices`.
        stock: Does it by the stock op.
        replica: The replica that has the variable, None if there is one for all.
    """

    variable: tf.Variable
    grad: Any
    stock: Callable[[], tf.Operation]
    replica: int | None = dataclasses.field(default_factory=_replicas.replica_of_update)


class AdadeltaOptimizer(tf.compat.v1.train.AdadeltaOptimizer):
    """`tf.compat.v1.train.AdadeltaOptimizer` with the update fused into one pass over memory.

    Arguments, defaults, slots, their names and numerics are those of
    [the stock class](https://www.tensorflow.org/api_docs/python/tf/compat/v1/train/AdadeltaOptimizer);
    checkpoints of either load into the other, by object and by name (`tf.compat.v1.train.Saver`).
    The update of all variables of one dtype on one device is one call of
    `tf_adadelta.ops.fused_adadelta_apply` (`fused_adadelta_sparse_apply` for sparse gradients), in
    a graph that a session runs, in eager execution, and in `tf.function`. The arithmetic is done in
    float32 for float16, bfloat16 and float32 variables and in float64 for float64 ones, and stored
    back once. A variable with a constraint is updated by a call of its own. Under a `tf.distribute`
    strategy there are such calls on each device that has variables.

    What the fused ops do not serve takes TensorFlow's own update, with one warning that says why:
    variables made with `use_resource=False`, devices other than the CPU and (in a build with CUDA)
    the GPU, servers that have not loaded the ops, and `jit_compile=True` before TensorFlow 2.20.
    With the environment variable `TF_ADADELTA_STRICT=1` that is a `RuntimeError` instead.

    Args:
        learning_rate: A float, a scalar tensor, or (in eager execution) a callable without
            arguments. Defaults to 0.001. The original paper has 1.0.
        rho: Likewise: the decay rate of both averages. Defaults to 0.95.
        epsilon: Likewise: added inside both square roots. Defaults to 1e-8.
        use_locking: As the stock class has it; the fused op always locks.
        name: A non-empty string, the prefix of the names of operations and slots.
        sparse_update: "lazy": rows without a gradient do not change, as the stock class has it, and
            a step costs no more than the rows that it touches. "exact": a sparse gradient has the
            result of the dense one, by the dense update. Either way duplicates are summed first.

    Raises:
        tf.errors.InvalidArgumentError: In `apply_gradients`, or when its operation is run: a
            gradient has another shape than its variable. No variable has then been changed.
        RuntimeError: In `apply_gradients`: something is not served and `TF_ADADELTA_STRICT=1`.

    Reference:
        Zeiler, "ADADELTA: An Adaptive Learning Rate Method", 2012, arXiv:1212.5701, Algorithm 1.

    Example:
        >>> optimizer = tf_adadelta.compat.v1.AdadeltaOptimizer(learning_rate=1.0)
        >>> train_op = optimizer.minimize(loss)
        >>> session.run(train_op)
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: Any = 0.95,
        epsilon: Any = 1e-8,
        use_locking: bool = False,
        name: str = "Adadelta",
        sparse_update: str = "lazy",
    ) -> None:
        super().__init__(learning_rate, rho, epsilon, use_locking, name)
        self.start_fused(sparse_update)

    def start_fused(self, sparse_update: str = "lazy") -> None:
        """Sets up what this class has besides the attributes of the stock one.

        Args:
            sparse_update: As the constructor has it.
        """
        self._dispatcher = Dispatcher(
            self._name, self._slots_of, sparse_update, StockUpdate("lazy")
        )
        self._pending: list[_Update] = []

    def _slots_of(self, variable: tf.Variable) -> tuple[tf.Variable, tf.Variable]:
        return self.get_slot(variable, "accum"), self.get_slot(variable, "accum_update")

    def _prepare(self) -> None:
        super()._prepare()
        self._pending = []  # Of a step that failed half-way.

    def _resource_apply_dense(self, grad: tf.Tensor, var: tf.Variable) -> tf.Operation | None:
        stock = super()._resource_apply_dense
        return self._defer(_Update(var, grad, lambda: stock(grad, var)))

    def _apply_dense(self, grad: tf.Tensor, var: tf.Variable) -> tf.Operation | None:
        stock = super()._apply_dense
        return self._defer(_Update(var, grad, lambda: stock(grad, var)))

    def _resource_apply_sparse_duplicate_indices(
        self, grad: tf.Tensor, handle: tf.Variable, indices: tf.Tensor
    ) -> tf.Operation | None:
        stock = super()._resource_apply_sparse_duplicate_indices
        slices = tf.IndexedSlices(grad, indices)
        return self._defer(_Update(handle, slices, lambda: stock(grad, handle, indices)))

    def _apply_sparse_duplicate_indices(
        self, grad: tf.IndexedSlices, var: tf.Variable
    ) -> tf.Operation | None:
        stock = super()._apply_sparse_duplicate_indices
        return self._defer(_Update(var, grad, lambda: stock(grad, var)))

    def _defer(self, update: _Update) -> tf.Operation | None:
        # The base class applies a constraint as soon as this returns.
        if update.variable.constraint is not None:
            return tf.group(*self._apply([update]))
        self._pending.append(update)
        return None

    def _finish(self, update_ops: list[tf.Operation | None], name_scope: str) -> tf.Operation:
        here = _replicas.replica_of_update()  # A strategy calls this for each of its replicas.
        pending = [update for update in self._pending if update.replica == here]
        self._pending = [update for update in self._pending if update.replica != here]
        update_ops = [operation for operation in update_ops if operation is not None]
        return super()._finish([*update_ops, *self._apply(pending)], name_scope)

    def _apply(self, updates: list[_Update]) -> list[tf.Operation]:
        hyperparameters = {
            "learning_rate": self._lr_t,
            "rho": self._rho_t,
            "epsilon": self._epsilon_t,
        }
        operations, unserved = self._dispatcher.apply(
            [update.variable for update in updates],
            [update.grad for update in updates],
            lambda *_: hyperparameters,
        )
        for position in unserved:
            with tf.compat.v1.colocate_with(updates[position].variable):
                operation = updates[position].stock()
            if operation is not None:
                operations.append(operation)
        return operations
