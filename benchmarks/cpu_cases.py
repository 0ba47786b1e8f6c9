"""The cases on the CPU: all of them together are to take less than five minutes on two cores.

What decides whether a contestant takes part is mostly what it takes to build: Keras traces 1,000
variables in 20 s and compiles them in 30 s, `torch.compile` compiles ResNet-50's list in 50 s.
"""

from benchmarks.cases import Case, Shape, models
from benchmarks.names import (
    COMPILED,
    EAGER,
    FIT_FUNCTION,
    FIT_JIT,
    FOREACH,
    FUNCTION,
    FUSED,
    JIT,
    KERAS,
    LEGACY_EAGER,
    LEGACY_FUNCTION,
    LIMIT,
    LOOP,
    NUMPY,
    OPTAX,
    STOCK_CLASSIC,
    STOCK_OP,
    TF_KERAS_EAGER,
    TF_KERAS_FUNCTION,
)
from benchmarks.training import MODELS

_OURS = (LIMIT, FUSED[NUMPY], FUSED[FUNCTION])
_GRAPH = (*_OURS, FUSED[JIT], KERAS[FUNCTION], KERAS[JIT], STOCK_OP)
_EAGER = (FUSED[EAGER], KERAS[EAGER], LOOP, FOREACH)
_TF_KERAS, _LEGACY = (
    tuple(names[mode] for mode in modes for names in (FUSED, STOCK_CLASSIC))
    for modes in ((TF_KERAS_EAGER, TF_KERAS_FUNCTION), (LEGACY_EAGER, LEGACY_FUNCTION))
)
_MOST = (*_GRAPH, *_EAGER, OPTAX)
_ALL = (*_MOST, COMPILED)  # Each of which takes seconds to compile.

_SMALL_TOTAL = 256_000


def _size(name: str, elements: int, contestants: tuple[str, ...], seconds: float = 2.0) -> Case:
    return Case(
        "size",
        name,
        f"One variable of {elements:,} elements",
        ((elements,),),
        contestants,
        seconds=seconds,
    )


_SIZES = (
    _size("1e3", 10**3, _ALL),
    _size("1e4", 10**4, _ALL),
    _size("1e5", 10**5, _MOST),
    _size("1e6", 10**6, _ALL),
    _size("1e7", 10**7, _MOST, seconds=4),
    _size("16M", 16 * 2**20, (*_GRAPH, FUSED[EAGER], KERAS[EAGER], FOREACH, COMPILED), seconds=6),
    # Keras needs a second for it in eager execution, a loop over PyTorch's operations likewise.
    _size("1e8", 10**8, _GRAPH, seconds=6),
)


def _model(
    name: str, title: str, contestants: tuple[str, ...], shapes: tuple[Shape, ...], seconds: float
) -> Case:
    description = f"The {len(shapes):,} trainable variables of {title}"
    return Case("models", name, description, shapes, contestants, seconds=seconds)


def _models() -> tuple[Case, ...]:
    shapes = models()
    return (
        _model(
            "resnet50",
            "ResNet-50",
            (*_GRAPH, *_EAGER, *_LEGACY),
            shapes["resnet50"],
            seconds=9,
        ),
        _model(
            "mobilenet",
            "MobileNet",
            (*_GRAPH, *_TF_KERAS, FUSED[EAGER], FOREACH, OPTAX),
            shapes["mobilenet"],
            seconds=5,
        ),
        _model(
            "bert-base",
            "BERT-base",
            (*_OURS, FUSED[JIT], KERAS[FUNCTION], STOCK_OP),
            shapes["bert-base"],
            seconds=5,
        ),
        _model(
            "embedding",
            "a click model, mostly 26 embedding tables (with dense gradients)",
            (*_GRAPH, *_EAGER),
            shapes["embedding"],
            seconds=4,
        ),
        Case(
            "models",
            "200x256",
            "200 variables of 256 elements, such as biases and scales",
            ((256,),) * 200,
            (*_OURS, KERAS[FUNCTION], STOCK_OP, FUSED[EAGER], KERAS[EAGER]),
            seconds=4,
        ),
    )


def _variables(count: int, contestants: tuple[str, ...], slow: tuple[str, ...] = ()) -> Case:
    size = _SMALL_TOTAL // count
    return Case(
        "variables",
        f"{count}x{size}",
        f"{count:,} variables of {size:,} elements",
        ((size,),) * count,
        contestants,
        slow,
        seconds=2.0,
    )


_VARIABLES = (
    _variables(1, _MOST),
    _variables(10, _MOST),
    _variables(100, (*_GRAPH, FUSED[EAGER], LOOP, FOREACH, OPTAX)),
    _variables(
        1000,
        (*_OURS, STOCK_OP, FUSED[EAGER], FOREACH),
        slow=(FUSED[JIT], KERAS[FUNCTION], KERAS[JIT], KERAS[EAGER], LOOP),
    ),
    # TensorFlow takes a minute and more to make a graph of so many; Keras is not asked for one.
    _variables(
        10_000,
        (LIMIT, FUSED[NUMPY], FOREACH),
        slow=(FUSED[FUNCTION], STOCK_OP, FUSED[EAGER], LOOP),
    ),
)

_DTYPES = tuple(
    Case(
        "dtypes",
        dtype,
        f"One variable of 4 × 2²⁰ elements, {dtype}",
        ((4 * 2**20,),),
        (*_GRAPH, FOREACH, OPTAX),
        dtype=dtype,
        seconds=2.5,
    )
    for dtype in ("float16", "bfloat16", "float32", "float64")
)

_OPTIONS_CONTESTANTS = (LIMIT, FUSED[FUNCTION], KERAS[FUNCTION], FUSED[JIT], KERAS[JIT])
_ALONE = {
    "plain": ({}, 0, "no option"),
    "global_clipnorm": ({"global_clipnorm": 1.0}, 4, "one more read of the gradients"),
    "clipvalue": ({"clipvalue": 0.5}, 0, "nothing more to move"),
    "weight_decay": ({"weight_decay": 0.01}, 0, "nothing more to move"),
    "use_ema": ({"use_ema": True}, 8, "the average read and written"),
    "loss_scale_factor": ({"loss_scale_factor": 8.0}, 0, "nothing more to move"),
    "accumulation": (
        {"gradient_accumulation_steps": 2},
        20,
        "two steps: one that adds, 12 bytes, and one that updates, 28 + 8",
    ),
}
_TOGETHER = {"global_clipnorm": 1.0, "weight_decay": 0.01, "use_ema": True}


def _options() -> tuple[Case, ...]:
    shapes = ((4 * 2**20,),) * 4  # Few, since each contestant is traced and compiled anew.
    return (
        *(
            Case(
                "options",
                name,
                f"4 variables of 4 × 2²⁰ elements, {name}: {what}",
                shapes,
                _OPTIONS_CONTESTANTS,
                options=options,
                extra_bytes=extra_bytes,
                seconds=2.5,
            )
            for name, (options, extra_bytes, what) in _ALONE.items()
        ),
        Case(
            "options",
            "resnet50",
            f"The variables of ResNet-50 with {', '.join(_TOGETHER)}",
            models()["resnet50"],
            _OPTIONS_CONTESTANTS,
            options=_TOGETHER,
            extra_bytes=12,
        ),
    )


def _threads(count: int, elements: int) -> Case:
    return Case(
        "threads",
        f"{elements:.0e} on {count}".replace("e+0", "e"),
        f"One variable of {elements:,} elements, {count} thread{'s' if count > 1 else ''}",
        ((elements,),),
        (LIMIT, FUSED[NUMPY]),
        num_threads=count,
        seconds=2,
    )


_TRAINING_MODES = {FUNCTION: FIT_FUNCTION, JIT: FIT_JIT}
_TRAINING_CONTESTANTS = (
    LIMIT,
    *(names[mode] for mode in _TRAINING_MODES for names in (FUSED, KERAS)),
    *(names[mode] for mode in _TRAINING_MODES.values() for names in (FUSED, KERAS)),
)


def _training() -> tuple[Case, ...]:
    return tuple(
        Case(
            "training",
            name,
            model.description,
            model.shapes,
            _TRAINING_CONTESTANTS,
            model=name,
            seconds=6,
        )
        for name, model in MODELS.items()
    )


def make_cpu_cases(num_threads: int) -> tuple[Case, ...]:
    """Returns the cases on the CPU, where no contestant gets more threads than so many."""
    counts = [2**i for i in range(num_threads.bit_length())]
    return (
        *_SIZES,
        *_models(),
        *_VARIABLES,
        *(_threads(count, elements) for elements in (10**5, 10**6, 10**7) for count in counts),
        *_DTYPES,
        *_options(),
        *_training(),
    )
