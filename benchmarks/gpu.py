"""The measurements on a GPU: against its memory, PyTorch and, where TensorFlow sees it, Keras."""

import functools
import importlib.util
import math
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_adadelta
from benchmarks.cases import Case, models
from benchmarks.contestants import (
    EPSILON,
    LEARNING_RATE,
    RHO,
    Contestant,
    Prepared,
    Work,
    prepare_optimizer,
    prepare_stock_op,
)
from benchmarks.environment import describe_environment
from benchmarks.frameworks import make_torch_optimizer
from benchmarks.names import FUNCTION, FUSED, FUSED_PREFIX, JIT, LIMIT, STOCK_OP
from benchmarks.suite import Suite
from benchmarks.targets import make_gpu_targets

_BURST_SECONDS = 0.02

_CASES = tuple(
    Case(section, name, description, shapes, rounds=25, seconds=120)
    for section, name, description, shapes in (
        ("size", "100M", "One variable of 100 million elements", ((100_000_000,),)),
        (
            "models",
            "resnet50",
            "The 214 trainable variables of ResNet-50",
            models()["resnet50"],
        ),
        ("variables", "200x256", "200 variables of 256 elements", ((256,),) * 200),
    )
)

TENSORS = "PyTorch's tensors"
GRAPH = "CUDA graph"
EMPTY = "empty kernel (CUDA graph)"
FOREACH = "PyTorch foreach"
GPU_FUSED = {
    TENSORS: f"{FUSED_PREFIX}(DLPack)",
    GRAPH: f"{FUSED_PREFIX}(CUDA graph)",
    FUNCTION: FUSED[FUNCTION],
    JIT: FUSED[JIT],
}
"""The fused contestant of each mode."""

_HOW = """\
## How it was measured

- All contestants ran in one process, one after the other in every round, in an order shuffled each
  round. A sample is the mean of a burst of calls of at least 20 ms; the table has the median of the
  samples and their quartiles.
- What runs on PyTorch's stream is timed by CUDA events around the burst. TensorFlow has a stream of
  its own: its contestants are timed by the clock, from an idle device to an idle device.
- A step is one update of all variables of the case, float32. "PyTorch" is the `step()` of
  `torch.optim.Adadelta`: with `foreach=False`, with `foreach=True`, and `torch.compile`d. "CUDA
  graph" is a step that was captured once and is replayed: what Python and the launches cost the
  host is not in it.
- GB/s counts the 28 bytes an element that any update must move.
- The limit is a device-to-device copy that moves as many bytes, half of them read and half written.
- × fused is the time over that of the fused update in the same mode. It, "of the limit" and the
  targets are medians of the ratios of all rounds.
- Before anything was timed, each contestant was compared with a float64 oracle over a few steps."""


def _torch() -> Any:
    import torch

    return torch


class GpuWork:
    """The gradients of one case.

    Attributes:
        case: What is updated.
        device: The device of PyTorch's tensors.
        tensorflow: The same for TensorFlow, with the variables that its contestants share.
        grads: The gradients as NumPy arrays.
        grad_tensors: The same gradients as tensors of PyTorch.
    """

    def __init__(self, case: Case, device: str = "cuda") -> None:
        self.case = case
        self.device = device
        self.tensorflow = Work(case, num_threads=1)
        self.grads = self.tensorflow.grads
        self.grad_tensors = [_torch().from_numpy(grad).to(device) for grad in self.grads]

    def zeros(self) -> list[Any]:
        """Returns a tensor of zeros for each variable."""
        return [_torch().zeros(shape, device=self.device) for shape in self.case.shapes]


class _OnTensorFlowsStream(Prepared):
    """A contestant whose work is on no stream of PyTorch's."""


def _captured(step: Callable[[], object], state: Iterable[Any]) -> Callable[[], object]:
    """Captures a step into a CUDA graph and sets its state, tensors, back to zero."""
    torch = _torch()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # What is loaded and allocated once must not be captured.
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    with torch.no_grad():
        for tensor in state:
            tensor.zero_()
    return graph.replay


def _values_of(tensors: Sequence[Any]) -> Callable[[], list[np.ndarray]]:
    return lambda: [tensor.detach().cpu().numpy() for tensor in tensors]


def _prepare_limit(work: GpuWork) -> Prepared:
    torch = _torch()
    source, target = (
        torch.zeros(
            work.case.elements * work.case.bytes_per_element // 2,
            dtype=torch.uint8,
            device=work.device,
        )
        for _ in range(2)
    )
    return Prepared(lambda: target.copy_(source), list)


def _prepare_empty(work: GpuWork) -> Prepared:
    return Prepared(_captured(lambda: _torch().cuda._sleep(0), []), list)


def _prepare_fused(work: GpuWork, mode: str) -> Prepared:
    state = [work.zeros() for _ in range(3)]

    def step() -> None:
        tf_adadelta.kernels.fused_adadelta_apply(
            *state, work.grad_tensors, learning_rate=LEARNING_RATE, rho=RHO, epsilon=EPSILON
        )

    if mode == GRAPH:
        step = _captured(step, [tensor for tensors in state for tensor in tensors])
    return Prepared(step, _values_of(state[0]))


def prepare_torch(
    work: GpuWork, *, foreach: bool, compiled: bool = False, captured: bool = False
) -> Prepared:
    """Prepares PyTorch's own optimizer."""
    parameters, optimizer = make_torch_optimizer(
        work.zeros(), work.grad_tensors, foreach=foreach, capturable=captured
    )
    step = optimizer.step
    if compiled:
        step = _torch().compile(step)
    if captured:
        step()  # Which makes the state.
        state = [tensor for slots in optimizer.state.values() for tensor in slots.values()]
        step = _captured(step, [*parameters, *state])
    return Prepared(step, _values_of(parameters))


def _contestants() -> list[Contestant]:
    def fused(mode: str) -> Contestant:
        return Contestant(GPU_FUSED[mode], mode, functools.partial(_prepare_fused, mode=mode))

    def torch_(name: str, mode: str, **settings: bool) -> Contestant:
        return Contestant(name, mode, functools.partial(prepare_torch, **settings))

    contestants = [
        Contestant(LIMIT, None, _prepare_limit),
        Contestant(EMPTY, None, _prepare_empty, bare=False),
        fused(TENSORS),
        torch_("PyTorch for-loop", TENSORS, foreach=False),
        torch_(FOREACH, TENSORS, foreach=True),
        torch_("PyTorch compiled", TENSORS, foreach=True, compiled=True),
        fused(GRAPH),
        torch_(f"{FOREACH} (CUDA graph)", GRAPH, foreach=True, captured=True),
    ]
    if not tf.config.list_physical_devices("GPU"):
        return contestants

    def tensorflow(name: str, mode: str, prepare: Callable[[Work], Prepared]) -> Contestant:
        def on_gpu(work: GpuWork) -> Prepared:
            with tf.device("GPU:0"):
                prepared = prepare(work.tensorflow)
            return _OnTensorFlowsStream(prepared.step, prepared.values)

        return Contestant(name, mode, on_gpu)

    for name, optimizer in (("fused", tf_adadelta.Adadelta), ("Keras", keras.optimizers.Adadelta)):
        for mode in (FUNCTION, JIT):
            prepare = functools.partial(prepare_optimizer, optimizer_class=optimizer, mode=mode)
            contestants.append(tensorflow(f"{name} {mode}", mode, prepare))
    contestants.append(tensorflow(STOCK_OP, FUNCTION, prepare_stock_op))
    return contestants


def _burst(contestant: Prepared) -> float:
    """Returns the mean seconds per call of a short run of calls, waited for at its end only."""
    torch = _torch()
    contestant.step()  # Untimed: caches still belong to the contestant before.
    torch.cuda.synchronize()
    time_calls = _time_by_clock if isinstance(contestant, _OnTensorFlowsStream) else _time_by_events
    calls = math.ceil(_BURST_SECONDS / time_calls(contestant.step, 1))
    calls = min(calls, 1000)  # More launches than that a stream does not hold.
    return time_calls(contestant.step, calls) / calls


def _time_by_events(step: Callable[[], object], calls: int) -> float:
    torch = _torch()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        step()
    end.record()
    torch.cuda.synchronize()
    return 1e-3 * start.elapsed_time(end)


def _time_by_clock(step: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        step()
    _torch().cuda.synchronize()  # The whole device, whosever stream it is.
    return time.perf_counter() - start


def _describe_gpu() -> dict[str, str | float]:
    torch = _torch()
    properties = torch.cuda.get_device_properties(0)
    driver = "unknown"
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip()
    info = tf_adadelta.build_info()
    return {
        "GPU": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "GPU memory": f"{properties.total_memory / 2**30:.0f} GiB",
        "driver": driver,
        "CUDA of tf_adadelta": info["cuda_toolkit"],
        "architectures": ", ".join(info["cuda_architectures"]),
        "pytorch": torch.__version__,
        "TensorFlow sees the GPU": "yes" if tf.config.list_physical_devices("GPU") else "no",
    }


def _why_not() -> str | None:
    info = tf_adadelta.build_info()
    if not info["cuda"]:
        return f"tf_adadelta was built without CUDA: {info['cuda_reason']}"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is missing, whose tensors and events are used: run `pip install torch`"
    if not _torch().cuda.is_available():
        return "PyTorch sees no GPU on this machine"
    return None


def make_gpu_suite() -> Suite:
    """Returns the measurements on the GPU; ends the program where there is none."""
    reason = _why_not()
    if reason is not None:
        raise SystemExit(f"python -m benchmarks --device gpu: {reason}")
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    contestants = _contestants()
    environment = describe_environment(num_threads=1, load=0.0)
    for name in ("threads", "load at the start", "instruction set"):
        del environment[name]
    return Suite(
        name="gpu",
        cases=_CASES,
        contestants=contestants,
        fused=GPU_FUSED,
        targets=make_gpu_targets(GPU_FUSED[TENSORS], GPU_FUSED[GRAPH], EMPTY, FOREACH),
        make_work=GpuWork,
        burst=_burst,
        environment={**_describe_gpu(), **environment},
        how=_HOW,
    )
