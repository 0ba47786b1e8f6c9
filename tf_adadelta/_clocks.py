"""How far slots lag behind whose idle decay is put off until somebody needs it."""

import tensorflow as tf

from tf_adadelta import _block_codes, _replicas, ops


class RowClock:
    """Tells how far each row of a variable's two slots has caught up with its sparse updates.

    Of a variable with replicas, each replica has rows and a clock of its own.

    Args:
        variable: The variable, whose rows are counted.
        slots: Its accum and accum_update.

    Attributes:
        counts: int64, shape `(rows + 1,)`: what `ops.fused_adadelta_sparse_apply` calls a clock.
        shared: Whether other processes update the rows, too, and whenever they want.
    """

    def __init__(self, variable: tf.Variable, slots: tuple[tf.Variable, tf.Variable]) -> None:
        self._slots = slots
        self._shape = variable.shape
        self._rho: float | None = None
        self.shared = _replicas.is_on_server(variable)
        size = variable.shape[0] + 1
        self.counts = _replicas.create_beside(
            variable,
            lambda: tf.Variable(tf.zeros([size], tf.int64), trainable=False, name="row_clock"),
        )

    def set_rho(self, rho: float) -> None:
        """Takes the decay rate of the next update; first catches up at one that was another."""
        if rho != self._rho:
            if self._rho is not None:
                with tf.init_scope():  # Now, not whenever a graph runs that is being traced.
                    self.catch_up()
            self._rho = rho

    def up_to_date(self, slot: tf.Variable) -> tf.Tensor:
        """Returns the true values of one of the slots and changes nothing."""
        stored = _block_codes.from_stored(slot, self._shape)
        return ops.up_to_date(stored, self.counts, self._rho)

    def catch_up(self) -> None:
        """Brings both slots up to date, on each replica."""
        _replicas.update(self.counts, self._catch_up_here)

    def _catch_up_here(self, _: str) -> None:
        for slot in self._slots:
            slot.assign(_block_codes.to_stored(self.up_to_date(slot), self._shape, slot.dtype))
        self.counts.assign(tf.fill(self.counts.shape, self.counts[-1]))
