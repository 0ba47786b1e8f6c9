"""The CUDA kernels on arrays of other libraries, which hand them over by DLPack."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_CUDA_DEVICE_TYPES = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged.
_LEGACY_DEFAULT_STREAM = 1  # As DLPack and CUDA count; 0 would be ambiguous.
_IN_ORDER = -1  # DLPack's word for arrays that need not wait for anything.


def is_device_array(value: Any) -> bool:
    """Returns whether a value is an array of another library that speaks DLPack."""
    return hasattr(value, "__dlpack_device__") and not isinstance(value, np.ndarray)


def apply(
    kernel: Callable[..., None],
    lists: dict[str, Sequence[Any] | None],
    scalars: dict[str, Any],
    stream: int | None,
    *,
    array: tuple[str, Any] | None = None,
    rounding: tuple[Any, Sequence[int] | None] | None = None,
) -> None:
    """Queues a call of a kernel of `_kernels` on lists of arrays, not all of NumPy.

    A list may be None where the kernel can do without it. `array` is the name and the value of what
    the kernel takes besides: a float64 array, or None where it can do without. `rounding` is the
    pair (step, random_seeds), for kernels that round. See `tf_adadelta.kernels` for the rest.
    """
    named = [
        (f"{name}[{i}]", value)
        for name, values in lists.items()
        for i, value in enumerate(values or [])
    ]
    named += [(name, value) for name, value in scalars.items() if is_device_array(value)]
    step, random_seeds = rounding or (0, None)
    if is_device_array(step):
        named.append(("step", step))
    if array is not None and array[1] is not None:
        if not is_device_array(array[1]):
            raise TypeError(
                f"{array[0]} is of type {type(array[1]).__name__}, expected a float64 array on the "
                "GPU, as the others are"
            )
        named.append(array)
    device = _check_devices(named)
    if stream is not None and (isinstance(stream, bool) or not isinstance(stream, int)):
        raise TypeError(f"stream is {stream!r}, expected an int, the handle of a CUDA stream")
    if stream is not None and stream < 0:
        raise ValueError(f"stream is {stream}, expected the handle of a CUDA stream")
    current = _current_stream(named[0][1], device)
    if stream is None:
        stream = current
    # On the current stream the work follows whatever made the arrays; on another one, and where the
    # current one is not known, their library has to make that stream wait.
    stream = stream or _LEGACY_DEFAULT_STREAM
    in_order = current is not None and stream == (current or _LEGACY_DEFAULT_STREAM)
    wait = _IN_ORDER if in_order else stream
    kernel(
        *(
            None if values is None else [_capsule(value, wait) for value in values]
            for values in lists.values()
        ),
        *([] if array is None else [None if array[1] is None else _capsule(array[1], wait)]),
        *(
            _capsule(value, wait) if is_device_array(value) else float(value)
            for value in scalars.values()
        ),
        *(
            []
            if rounding is None
            else [_capsule(step, wait) if is_device_array(step) else int(step), random_seeds]
        ),
        stream,
    )


def _check_devices(named: Sequence[tuple[str, Any]]) -> int:
    """Returns the number of the CUDA device that all arrays, given with their names, are on."""
    expected, expected_of = None, None
    for name, array in named:
        if isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a numpy.ndarray, expected an array on the GPU like others")
        device_type, device = map(int, array.__dlpack_device__())
        if device_type not in _CUDA_DEVICE_TYPES:
            raise TypeError(
                f"{name} is a {type(array).__name__} on a device of DLPack's type {device_type}, "
                "expected one on a CUDA device (arrays on the CPU are taken as numpy.ndarray)"
            )
        if expected is None:
            expected, expected_of = device, name
        if device != expected:
            raise ValueError(
                f"{name} is on CUDA device {device}, expected {expected}, that of {expected_of}"
            )
    return expected


def _current_stream(array: Any, device: int) -> int | None:
    """Returns the handle of the current stream of the array's library, None if it has none."""
    library = type(array).__module__.partition(".")[0]
    if library == "torch":
        return sys.modules["torch"].cuda.current_stream(device).cuda_stream
    if library == "cupy":
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(device):
            return cupy.cuda.get_current_stream().ptr
    return None


def _capsule(array: Any, wait: int) -> Any:
    """Returns the array as a capsule; its library makes the stream `wait` do so."""
    try:
        return array.__dlpack__(stream=wait, max_version=(1, 0))
    except TypeError:  # From before version 1.
        return array.__dlpack__(stream=wait)
