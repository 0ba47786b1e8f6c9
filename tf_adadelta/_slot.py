"""The slot variables of the Keras 3 optimizer: rows may lag behind, or be kept in few bits."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras.src.backend import Variable  # Of which keras.Variable was once a class of its own.

from tf_adadelta import _block_codes
from tf_adadelta._clocks import RowClock


class Slot(Variable):
    """A Keras variable that shows its true values while those that it stores lag behind.

    Reading computes the true values and changes nothing. Saving and assigning catch up first: who
    saves then goes on from the bits that a load would give.

    What is stored may have another dtype than the slot, and in uint8 another shape: it is shown,
    saved and loaded in those of the slot.

    Attributes:
        clock: How far the rows have caught up; None as long as there was no sparse gradient.
    """

    clock: RowClock | None = None
    _on_graph: Callable[[], None]

    @classmethod
    def adopt(
        cls,
        variable: Variable,
        dtype: str,
        shape: tuple[int, ...],
        on_graph: Callable[[], None],
    ) -> None:
        """Makes a slot of a variable that Keras created.

        Args:
            variable: The variable.
            dtype: That it shows.
            shape: Likewise.
            on_graph: Called when a graph takes what is stored for the true values.
        """
        variable.__class__ = cls
        variable._dtype = dtype
        variable._shape = shape
        variable._ndim = len(shape)
        variable._on_graph = on_graph

    @classmethod
    def release(cls, slot: "Slot") -> None:
        """Makes a variable of Keras's again of a slot, with its true values."""
        slot.caught_up()
        if slot._is_narrow:
            values = slot._decoded(slot.stored)
            slot._value = tf.Variable(values, trainable=False, name=slot.name)
        slot.__class__ = Variable
        for name in ("clock", "_on_graph"):
            vars(slot).pop(name, None)

    @property
    def dtype(self) -> str:
        """The dtype that whoever reads it sees."""
        return self._dtype if self._is_narrow else super().dtype

    @property
    def _is_narrow(self) -> bool:
        return self._value.dtype != self._dtype

    def _decoded(self, stored: Any) -> tf.Tensor:
        return tf.cast(_block_codes.from_stored(stored, self._shape), self.dtype)

    def _encoded(self, values: Any) -> tf.Tensor:
        return _block_codes.to_stored(values, self._shape, self._value.dtype)

    @property
    def stored(self) -> tf.Variable:
        """The variable in which the values are stored, some of them perhaps lagging behind."""
        return self._value

    @property
    def value(self) -> Any:
        """The true values: a tensor once a clock runs, else the variable itself."""
        value = super().value
        if value is not self._value:  # In a stateless scope.
            return value
        if self.clock is not None:
            return tf.cast(self.clock.up_to_date(value), self.dtype)
        elif not tf.executing_eagerly():
            self._on_graph()
        return self._decoded(value) if self._is_narrow else value

    def caught_up(self) -> tf.Variable:
        """Returns the variable in which the values are stored, all of them true."""
        if self.clock is not None:
            self.clock.catch_up()
        elif not tf.executing_eagerly():
            self._on_graph()
        return self._value

    def _direct_assign(self, value: Any) -> None:
        self.caught_up()
        super()._direct_assign(self._encoded(value) if self._is_narrow else value)

    def __repr__(self) -> str:
        if (self.clock is None and not self._is_narrow) or not tf.executing_eagerly():
            return super().__repr__()
        shape, value = self.shape, self.value.numpy()
        return f"<Variable path={self.path}, shape={shape}, dtype={self.dtype}, value={value}>"

    @property
    def handle(self) -> tf.Tensor:
        return self.caught_up().handle

    @property
    def _shared_name(self) -> str:
        return self._value._shared_name

    def _serialize_to_tensors(self) -> dict[str, Any]:
        # The graph of a SavedModel cannot read the clock; its export has caught up before.
        if tf.executing_eagerly() or tf.compat.v1.get_default_graph().building_function:
            if self.clock is not None and self.clock.shared:
                return {"VARIABLE_VALUE": self.value}  # To write would undo a worker's step.
            self.caught_up()
            if self._is_narrow:
                return {"VARIABLE_VALUE": self.value}
        try:
            return self._value._serialize_to_tensors()
        except NotImplementedError:  # With replicas.
            return {"VARIABLE_VALUE": self._value}

    def _restore_from_tensors(self, restored_tensors: dict[str, tf.Tensor]) -> Any:
        if self.clock is not None:  # Else nothing lags, even in the graph that restores servers.
            self.clock.catch_up()
        if self._is_narrow:
            values = self._encoded(restored_tensors["VARIABLE_VALUE"])
            restored_tensors = {**restored_tensors, "VARIABLE_VALUE": values}
        try:
            return self._value._restore_from_tensors(restored_tensors)
        except NotImplementedError:  # With replicas.
            self._value.assign(restored_tensors["VARIABLE_VALUE"])
            return self._value

    def _copy_trackable_to_cpu(self, object_map: dict[Any, Any]) -> None:
        self.caught_up()._copy_trackable_to_cpu(object_map)
        object_map[self] = tf.Variable(self._decoded(object_map[self._value]))

    def _export_to_saved_model_graph(
        self, object_map: dict[Any, Any], tensor_map: Any, options: Any, **kwargs: Any
    ) -> list[Any]:
        with tf.__internal__.eager_context.eager_mode():  # Not in the graph that is being made.
            self.caught_up()
        resources = self._value._export_to_saved_model_graph(
            object_map, tensor_map, options, **kwargs
        )
        object_map[self] = tf.Variable(object_map[self._value])
        return resources

    def _write_object_proto(self, proto: Any, options: Any) -> Any:
        self._value._write_object_proto(proto, options)
        # As _serialize_to_tensors has it. A function that updates what is stored cannot run then.
        proto.variable.dtype = tf.as_dtype(self.dtype).as_datatype_enum
        proto.variable.shape.CopyFrom(tf.TensorShape(self.shape).as_proto())
