"""The contestants of other frameworks on the CPU: PyTorch's Adadelta, and Optax's under JAX."""

import functools
import importlib.util
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.contestants import EPSILON, LEARNING_RATE, RHO, Contestant, Prepared, Work
from benchmarks.names import COMPILED, EAGER, FOREACH, JIT, LOOP, OPTAX


def find_missing() -> dict[str, str]:
    """Returns the contestants of this module that cannot take part, and why."""
    needs = {LOOP: ("torch",), FOREACH: ("torch",), COMPILED: ("torch",), OPTAX: ("jax", "optax")}
    missing = {}
    for name, packages in needs.items():
        absent = [package for package in packages if importlib.util.find_spec(package) is None]
        if absent:
            missing[name] = f"{' and '.join(absent)} not installed"
    return missing


def versions() -> dict[str, str]:
    """Returns the versions of what is installed of these."""
    names = ("tf_keras", "torch", "jax", "optax")
    return {name: version(name) for name in names if importlib.util.find_spec(name) is not None}


def make_torch_optimizer(
    variables: Sequence[Any], grads: Sequence[Any], **settings: bool
) -> tuple[list[Any], Any]:
    """Returns parameters with these values and gradients, and PyTorch's optimizer of them."""
    import torch

    parameters = [torch.nn.Parameter(variable) for variable in variables]
    for parameter, grad in zip(parameters, grads):
        parameter.grad = grad
    optimizer = torch.optim.Adadelta(parameters, lr=LEARNING_RATE, rho=RHO, eps=EPSILON, **settings)
    return parameters, optimizer


def _as_torch(array: np.ndarray) -> Any:
    import torch

    if array.dtype.name == "bfloat16":  # Which NumPy itself does not have.
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _prepare_torch(work: Work, foreach: bool, compiled: bool = False) -> Prepared:
    # Triton is for GPUs, and brings an LLVM that aborts beside that of TensorFlow.
    sys.modules.setdefault("triton", None)
    import torch

    logging.getLogger("torch").setLevel(logging.ERROR)  # It warns of missing GPUs.
    torch.set_num_threads(work.num_threads)
    grads = list(map(_as_torch, work.grads))
    parameters, optimizer = make_torch_optimizer(
        [torch.zeros_like(grad) for grad in grads], grads, foreach=foreach
    )
    step = optimizer.step
    if compiled:
        torch._dynamo.reset()  # Or it would make one program for this case and those before.
        step = torch.compile(step)
    return Prepared(step, lambda: [parameter.detach().numpy() for parameter in parameters])


def _prepare_optax(work: Work) -> Prepared:
    import jax
    import optax

    jax.config.update("jax_enable_x64", True)  # Or float64 would quietly become float32.
    device = jax.devices("cpu")[0]
    optimizer = optax.adadelta(learning_rate=LEARNING_RATE, rho=RHO, eps=EPSILON)

    # The memory of what is donated is written in place.
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(variables: list, state: Any, grads: list) -> tuple[list, Any]:
        updates, state = optimizer.update(grads, state, variables)
        return optax.apply_updates(variables, updates), state

    grads = jax.device_put(work.grads, device)
    held = [jax.device_put([np.zeros_like(grad) for grad in work.grads], device)]
    held.append(optimizer.init(held[0]))

    def step() -> None:
        held[:] = update(*held, grads)
        jax.block_until_ready(held[0])

    return Prepared(step, lambda: list(map(np.asarray, held[0])))


CONTESTANTS = (
    Contestant(LOOP, EAGER, functools.partial(_prepare_torch, foreach=False), foreign=True),
    Contestant(FOREACH, EAGER, functools.partial(_prepare_torch, foreach=True), foreign=True),
    Contestant(
        COMPILED, JIT, functools.partial(_prepare_torch, foreach=True, compiled=True), foreign=True
    ),
    Contestant(OPTAX, JIT, _prepare_optax, foreign=True),
)
