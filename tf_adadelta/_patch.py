"""Makes the stock Adadelta optimizers give ours, in programs that know nothing of this package.

The stock classes stay what they are, under all names that they have been imported by; what changes
is that to call one of them makes an instance of a subclass, ours. Everything else follows: strings,
configurations and files all end in a call of the class.
"""

import copyreg
import functools
import importlib.util
import pkgutil
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tf_adadelta._import_hook import ImportHook
from tf_adadelta._pairs import ADADELTAS, Pair

_lock = threading.RLock()
_patches: set["Patch"] = set()  # Those that are in force.
_stock_inits: dict[type[Any], Callable[..., None]] = {}  # Of the classes that are patched.
_announced = False


class Patch:
    """What `patch_keras` returns: a context manager that takes back that one call."""

    def __enter__(self) -> "Patch":
        """Returns itself; the patch has been in force since it was made."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Takes the patch back; others stay in force."""
        with _lock:
            _patches.discard(self)
            _update()


def patch_keras() -> Patch:
    """Makes Keras's Adadelta the fused one, without a change to the program.

    From now on to call `keras.optimizers.Adadelta` (`tf.keras.optimizers.Adadelta` is the same
    class), `tf.compat.v1.train.AdadeltaOptimizer`, `tf_keras.optimizers.Adadelta` or
    `tf_keras.optimizers.legacy.Adadelta` makes one of ours; so do the string "adadelta",
    `keras.optimizers.get` and `deserialize`, and the loading of models. It does not matter under
    which name or when a program imported the class, nor whether tf_keras has been imported.

    The optimizer has the configuration of the stock class, and its files and pickles name that, so
    that they load where tf_adadelta is not installed. Instances that were made before stay what
    they are (`from_keras` converts them), and so does every subclass of a stock class, whose
    methods would not be called by the fused update.

    The patch is one of the process, for all threads. To patch twice is to patch once;
    `unpatch_keras` takes all patches back. The first one prints a line to stderr that says what was
    patched.

    Returns:
        A context manager, for those who want the patch for a while: its end takes back this call.

    Example:
        >>> with tf_adadelta.patch_keras():
        ...     model.compile(optimizer="adadelta", loss="mse")
    """
    patch = Patch()
    with _lock:
        _patches.add(patch)
        _update()
        _announce()
    return patch


def unpatch_keras() -> None:
    """Gives the stock classes back what they were, however often they were patched.

    Optimizers that were made meanwhile stay ours.
    """
    with _lock:
        _patches.clear()
        _update()


def _update() -> None:
    """Patches what is not, or unpatches what is."""
    if not _patches:
        _tf_keras_hook.remove()
        while _stock_inits:
            stock, stock_init = _stock_inits.popitem()
            stock.__init__ = stock_init
        return
    for pair in ADADELTAS:
        if pair.is_imported and pair.stock not in _stock_inits:
            _redirect(pair)
    if "tf_keras" not in sys.modules:
        _tf_keras_hook.install()


def _update_late() -> None:
    with _lock:
        _tf_keras_hook.remove()
        _update()


_tf_keras_hook = ImportHook("tf_keras", _update_late)


def _redirect(pair: Pair) -> None:
    stock = pair.stock
    stock_init = _stock_inits[stock] = stock.__init__

    @functools.wraps(stock_init)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if type(self) is stock:
            # Past the class's own __setattr__, which wants an optimizer that is set up.
            object.__setattr__(self, "__class__", _stand_in(pair))
            self.__init__(*args, **kwargs)
        else:
            stock_init(self, *args, **kwargs)

    stock.__init__ = init


class _StandInType(type):
    """The type of classes that are pickled as the stock class they stand for."""

    stock_name: str


copyreg.pickle(_StandInType, lambda cls: (pkgutil.resolve_name, (cls.stock_name,)))


@functools.cache
def _stand_in(pair: Pair) -> type[Any]:
    """Returns ours under the name of the stock class, which configurations and files then have."""
    if pair.config_module is None:
        return pair.ours
    stand_in = _StandInType(
        pair.stock.__name__,
        (pair.ours,),
        {"__module__": pair.config_module, "__doc__": pair.ours.__doc__},
    )
    stand_in.stock_name = pair.stock_name
    return stand_in


def is_stand_in(cls: type[Any]) -> bool:
    """Whether a class is one of ours under the name of a stock class."""
    return isinstance(cls, _StandInType)


def _announce() -> None:
    global _announced
    if _announced:
        return
    _announced = True
    names = [
        pair.stock_name.replace(":", ".").replace("tensorflow.", "tf.")
        for pair in ADADELTAS
        if importlib.util.find_spec(pair.library) is not None
    ]
    print(
        f"tf_adadelta: {', '.join(names[:-1])} and {names[-1]} make fused optimizers now.",
        file=sys.stderr,
    )
