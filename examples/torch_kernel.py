"""The kernel on PyTorch's tensors: on the CPU, and where there is one on a GPU.

    pip install ".[demo]" torch && python examples/torch_kernel.py

PyTorch trains a small network on two moons; only the optimizer's step is not PyTorch's. Tensors on
the CPU are handed over as NumPy arrays on the same memory, those on a GPU as they are, by DLPack,
on PyTorch's current stream. Beside it `torch.optim.Adadelta`, for the numbers and for the time. The
curves go to torch_kernel.png.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from tqdm import tqdm

from tf_adadelta import kernels

try:
    import torch
except ModuleNotFoundError:
    raise SystemExit(
        "This example needs PyTorch, which is not installed: run `pip install torch`."
    ) from None

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RHO, EPSILON = 0.95, 1e-6


class FusedAdadelta:
    """As `torch.optim.Adadelta`, in one call of the kernel."""

    def __init__(self, parameters: Sequence[torch.Tensor], lr: float) -> None:
        self.parameters = list(parameters)
        self.lr = lr
        self.accums = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.accum_updates = [torch.zeros_like(parameter) for parameter in self.parameters]

    def step(self) -> None:
        """Updates all parameters."""
        gradients = [parameter.grad for parameter in self.parameters]
        kernels.fused_adadelta_apply(
            *map(as_arrays, (self.parameters, self.accums, self.accum_updates, gradients)),
            learning_rate=self.lr,
            rho=RHO,
            epsilon=EPSILON,
        )

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for parameter in self.parameters:
            parameter.grad = None


def as_arrays(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """Returns what the kernel takes: the same memory, nothing copied."""
    tensors = [tensor.detach() for tensor in tensors]
    return [tensor if tensor.is_cuda else tensor.numpy() for tensor in tensors]


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "PyTorch": lambda parameters: torch.optim.Adadelta(parameters, 1.0, RHO, EPSILON),
    "fused": lambda parameters: FusedAdadelta(parameters, 1.0),
}


def make_moons(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns points of two moons, and the moon of each."""
    rng = np.random.default_rng(0)
    moon = rng.integers(0, 2, count)
    angle = np.pi * rng.random(count)
    x = np.where(moon, 1 - np.cos(angle), np.cos(angle))
    y = np.where(moon, 0.5 - np.sin(angle), np.sin(angle))
    points = np.stack([x, y], axis=1) + rng.normal(scale=0.1, size=(count, 2))
    return torch.tensor(points, dtype=torch.float32), torch.tensor(moon, dtype=torch.float32)


def train(
    make: Callable[..., Any], name: str, device: str, steps: int
) -> tuple[list[torch.Tensor], list[float], float]:
    """Returns the parameters, the losses and the accuracy after so many steps."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh()
    )
    network.append(torch.nn.Linear(64, 1)).to(device)
    optimizer = make(list(network.parameters()))
    points, moons = (tensor.to(device) for tensor in make_moons(2000))
    losses = []
    for step in tqdm(range(steps), desc=f"{name:<8}", unit=" steps"):
        rows = torch.tensor(np.random.default_rng(step).integers(0, 2000, 128), device=device)
        outputs = network(points[rows])[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(outputs, moons[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    accuracy = ((network(points)[:, 0] > 0) == (moons > 0)).float().mean().item()
    return [parameter.detach() for parameter in network.parameters()], losses, accuracy


def milliseconds(make: Callable[..., Any], device: str, elements: int, rounds: int = 9) -> float:
    """Returns the time of an update of so many elements."""
    parameter = torch.full((elements,), 0.5, device=device, requires_grad=True)
    parameter.grad = torch.full_like(parameter, 0.1)
    optimizer = make([parameter])
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def main() -> None:
    """Trains with both on each device, compares, and times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--elements", type=int, default=4_000_000, help="of the update timed")
    parser.add_argument("--output", type=Path, default=Path("torch_kernel.png"))
    arguments = parser.parse_args()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    title = f"{arguments.elements:,} elements"
    rows = [f"{'':<16}{'last loss':>11}{'accuracy':>10}{'largest diff.':>15}{title:>22}"]
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        expected = None
        for name, make in OPTIMIZERS.items():
            label = f"{name}, {device}"
            found, losses, accuracy = train(make, label, device, arguments.steps)
            expected = expected or found
            pairs = zip(found, expected)
            difference = max((one - other).abs().max().item() for one, other in pairs)
            time_of_update = milliseconds(make, device, arguments.elements)
            rows.append(
                f"{label:<16}{np.mean(losses[-20:]):>11.4f}{accuracy:>10.2%}{difference:>15.1e}"
                f"{time_of_update:>19.2f} ms"
            )
            axis.plot(losses, label=label, lw=1)
    print("\n" + "\n".join(rows))
    axis.set(xlabel="step", ylabel="loss")
    axis.legend()
    figure.savefig(arguments.output, dpi=120)
    print(f"\nThe curves are in {arguments.output}.")


if __name__ == "__main__":
    main()
