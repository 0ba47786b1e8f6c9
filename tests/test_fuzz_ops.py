"""Nodes of the ops as a file could hold them, right and wrong, that Hypothesis writes by hand.

A node that is right is run, and changes what it names; one that is wrong is refused, when the graph
is imported, compiled or run, and changes nothing. No node ends the process. `ci/fuzz.py` lets this
run for long.
"""

import dataclasses

import numpy as np
import tensorflow as tf
from conftest import XLA
from fuzzing import fuzz, note, numbers
from hypothesis import example, given
from hypothesis import strategies as st

import tf_adadelta  # noqa: F401  Loads the ops.

REFUSED = (tf.errors.OpError, ValueError, TypeError)
DTYPES = ["float16", "bfloat16", "float32", "float64"]
OPTIONS = ["grad_scale", "update", "clip_factors", "clipvalue", "weight_decay", "ema_momentum"]
RANDOM = ["step", "random_seeds"]


@dataclasses.dataclass
class Case:
    """A node that is right but for its mistakes: (list, position, kind, value) each."""

    op: str
    dtype: str
    shapes: list
    indices: list = ()
    index_dtype: str = "int64"
    optional: tuple = ()
    scalars: dict = dataclasses.field(default_factory=dict)
    attributes: dict = dataclasses.field(default_factory=dict)
    mistakes: list = ()
    mode: str = "graph"

    def resources(self):
        """The shape and the dtype of each variable of each list, in the order of the inputs."""
        like = [(shape, self.dtype) for shape in self.shapes]
        if self.op == "FusedSquaredNorms":
            return {"grad_accums": like if "grad_accums" in self.optional else []}
        roles = {"variables": list(like)}
        for role in ("accums", "accum_updates"):
            roles[role] = [(shape, self.state_dtype()) for shape in self.shapes]
        if self.op == "FusedAdadeltaSparseApply":
            # Of a vast table a clock does not fit, in memory and so to its table.
            clocks = [((min(shape[0], 99) + 1,), "int64") for shape in self.shapes]
            return {**roles, "clocks": clocks if "clocks" in self.optional else []}
        return roles | {
            role: like if role in self.optional else [] for role in ("averages", "grad_accums")
        }

    def state_dtype(self):
        random = "random" in self.optional and self.dtype == "float32"
        return "bfloat16" if random else self.dtype

    def grads(self):
        if self.op != "FusedAdadeltaSparseApply":
            return [(shape, self.dtype) for shape in self.shapes]
        return [
            ((len(rows), *shape[1:]), self.dtype) for rows, shape in zip(self.indices, self.shapes)
        ]


# Few elements, or none with dimensions whose product is more than an int64.
ROWS = st.lists(st.integers(0, 5), max_size=2).map(tuple)
VAST = st.sampled_from([(0, 2**62, 4), (2**40, 0), (2**62, 0, 3), (2**63 - 1, 0), (0, 2**63 - 1)])
SHAPES = st.one_of(ROWS, ROWS, ROWS, VAST)
TABLES = st.one_of(
    *[st.tuples(st.integers(0, 5), ROWS).map(lambda t: (t[0], *t[1]))] * 3,
    VAST,
)
MISTAKES = {
    "dtype": st.sampled_from([*DTYPES, "int32", "int64", "string", "complex64", "bool"]),
    "shape": st.one_of(st.lists(st.integers(0, 5), max_size=3).map(tuple), VAST),
    "same": st.tuples(st.integers(0, 8), st.integers(0, 2)),
    "missing": st.none(),
    "uninitialized": st.none(),
    "table": st.none(),
    "handles": st.sampled_from([(0,), (1,), (2,), (0, 3)]),
    "index": st.sampled_from([-1, 5, 6, 2**31 - 1, -(2**31)]),
}


@st.composite
def cases(draw):
    op = draw(
        st.sampled_from(["FusedAdadeltaApply", "FusedAdadeltaSparseApply", "FusedSquaredNorms"])
    )
    sparse = op == "FusedAdadeltaSparseApply"
    shapes = draw(st.lists(TABLES if sparse else SHAPES, min_size=1, max_size=3))
    case = Case(op, draw(st.sampled_from(DTYPES)), shapes)
    if sparse:
        case.indices = [
            draw(st.lists(st.integers(0, min(shape[0], 9) - 1), max_size=6)) if shape[0] else []
            for shape in shapes
        ]
        case.index_dtype = draw(st.sampled_from(["int32", "int64"]))
    choice = {
        "FusedAdadeltaApply": ["averages", "grad_accums", "options"],
        "FusedAdadeltaSparseApply": ["clocks"],
        "FusedSquaredNorms": ["grad_accums"],
    }[op]
    case.optional = tuple(name for name in choice if draw(st.booleans()))
    if op == "FusedAdadeltaApply" and {"averages", "grad_accums"} & set(case.optional):
        case.optional = (*case.optional, "options")
    # Wrong for any other dtype.
    if (
        op != "FusedSquaredNorms"
        and draw(st.integers(0, 1 if case.dtype == "bfloat16" else 20)) == 1
    ):
        case.optional = (*case.optional, "random")
    case.scalars = {name: draw(numbers) for name in scalar_names(case) if name != "clip_factors"}
    lists = [*case.resources(), "grads", *(["indices"] if sparse else []), *scalar_names(case)]
    lists += RANDOM if "random" in case.optional else []
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(list(MISTAKES)))
        mistake = (
            draw(st.sampled_from(lists)),
            draw(st.integers(0, 2)),
            kind,
            draw(MISTAKES[kind]),
        )
        case.mistakes = [*case.mistakes, mistake]
    if draw(st.integers(0, 4)) == 0:
        names = ["N", "num_averages", "num_grad_accums", "num_options", "num_clocks", "num_random"]
        name = draw(st.sampled_from([*names, "T", "Tindices", "use_locking", "unknown"]))
        value = draw(st.sampled_from([-1, 0, 1, 2, 3, 5, 6, 7, 2**31, 2**62]))
        case.attributes = {name: value}
    # XLA itself ends the process where a variable has so many rows, even if only stock ops use it.
    vast = any(shape[:1] > (2**60,) for shape in [*shapes, *mistaken_shapes(case)])
    case.mode = draw(st.sampled_from(["graph"] * 8 + ["jit"] * (XLA and not vast)))
    return case


def mistaken_shapes(case):
    return [value for _, _, kind, value in case.mistakes if kind == "shape"]


def scalar_names(case):
    if case.op == "FusedSquaredNorms":
        return ["grad_scale", "update"]
    names = ["learning_rate", "rho", "epsilon"]
    return names + (OPTIONS if "options" in case.optional else [])


class Inputs:
    """The inputs of a node, with the mistakes of the case."""

    def __init__(self, case):
        self.variables = []
        self.kept = []
        self.reshaped = {}
        resources = {
            name: [self.variable(shape, dtype) for shape, dtype in specs]
            for name, specs in case.resources().items()
        }
        grads = [tensor(shape, dtype) for shape, dtype in case.grads()]
        self.lists = {**resources, "grads": grads}
        if case.op == "FusedAdadeltaSparseApply":
            indices = [tf.constant(rows, case.index_dtype, (len(rows),)) for rows in case.indices]
            self.lists["indices"] = indices
        for name in scalar_names(case):
            value = case.scalars.get(name, [1.0] * len(case.shapes))
            self.lists[name] = [tf.constant(value, tf.float64)]
        if "random" in case.optional:
            self.lists["step"] = [tf.constant(3, tf.int64)]
            self.lists["random_seeds"] = [tf.range(len(case.shapes), dtype=tf.int64)]
        for mistake in case.mistakes:
            self.spoil(*mistake)

    def variable(self, shape, dtype):
        variable = tf.Variable(lambda: tensor(shape, dtype), shape=shape, dtype=dtype)
        self.variables.append(variable)
        return variable.handle

    def spoil(self, name, i, kind, value):
        values = self.lists[name]
        if i >= len(values):
            return
        resource = values[i].dtype == tf.resource
        if kind == "missing":
            values.pop(i)
        elif kind in ("dtype", "shape"):
            shape, dtype = ((1,), value) if kind == "dtype" else (value, "float32")
            if not resource and kind == "shape":
                dtype = values[i].dtype
            make = self.variable if resource else tensor
            values[i] = make(shape, dtype)
        elif kind == "same":
            other = list(self.lists.values())[value[0] % len(self.lists)]
            if value[1] < len(other):
                values[i] = other[value[1]]
        elif kind == "index" and name == "indices":
            values[i] = tf.concat([values[i], tf.constant([value], values[i].dtype)], 0)
        elif resource and kind == "uninitialized":
            values[i] = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=(2,), shared_name="never")
        elif resource and kind == "table":
            initializer = tf.lookup.KeyValueTensorInitializer([1], [2])
            self.kept.append(tf.lookup.StaticHashTable(initializer, 0))
            values[i] = self.kept[-1].resource_handle
        elif resource and kind == "handles":
            self.reshaped[name, i] = value

    def read(self):
        return [
            b"" if np.prod(variable.shape) == 0 else tf.io.serialize_tensor(variable).numpy()
            for variable in self.variables
        ]


def tensor(shape, dtype):
    """A tensor of ordinary numbers."""
    dtype = tf.as_dtype(dtype)
    if dtype == tf.string:
        return tf.fill(tf.constant(shape, tf.int64), "text")
    return tf.cast(tf.fill(tf.constant(shape, tf.int64), 0.5), dtype)


def node_of(case, inputs):
    """Returns a graph that holds the node alone; its inputs are to be mapped."""
    graph = tf.compat.v1.GraphDef()
    node = tf.compat.v1.NodeDef(name="op", op=case.op)
    lengths = {name: len(values) for name, values in inputs.lists.items()}
    node.input.extend(f"input{i}" for i in range(sum(lengths.values())))
    node.attr["T"].type = tf.as_dtype(case.dtype).as_datatype_enum
    attributes = {"N": lengths["grads"]}
    if case.op == "FusedAdadeltaApply":
        attributes |= {f"num_{name}": lengths[name] for name in ("averages", "grad_accums")}
        attributes["num_options"] = sum(lengths.get(name, 0) for name in OPTIONS)
    elif case.op == "FusedAdadeltaSparseApply":
        attributes["num_clocks"] = lengths["clocks"]
        node.attr["Tindices"].type = tf.as_dtype(case.index_dtype).as_datatype_enum
    else:
        attributes["num_grad_accums"] = lengths["grad_accums"]
    if case.op != "FusedSquaredNorms":
        attributes["num_random"] = sum(lengths.get(name, 0) for name in RANDOM)
    for name, value in {**attributes, **case.attributes}.items():
        if name in ("T", "Tindices"):
            node.attr[name].type = value % 24
        elif name == "use_locking":
            node.attr[name].b = bool(value % 2)
        else:
            node.attr[name].i = value
    graph.node.append(node)
    return graph


def run(case, inputs):
    names = [(name, i) for name, values in inputs.lists.items() for i in range(len(values))]
    graph = node_of(case, inputs)

    def step(*values):
        values = list(values)
        for number, name in enumerate(names):
            if name in inputs.reshaped:
                shape = inputs.reshaped[name]
                some = tf.stack([values[number]] * 2)[: int(np.prod(shape))]
                values[number] = tf.reshape(some, shape)
        [op] = tf.graph_util.import_graph_def(
            graph,
            input_map={f"input{i}": value for i, value in enumerate(values)},
            return_elements=["op"],
            name="",
        )
        return op.outputs

    values = [value for values in inputs.lists.values() for value in values]
    tf.function(step, jit_compile=case.mode == "jit", autograph=False)(*values)


def is_right(case):
    """Whether the node is certainly right: what is said to be a mistake may be none."""
    clocks = "clocks" in case.optional and any(shape[0] > 99 for shape in case.shapes)
    random = "random" in case.optional and case.dtype not in ("bfloat16", "float32")
    return not case.mistakes and not case.attributes and not clocks and not random


SPARSE = ("FusedAdadeltaSparseApply", "float32")
SCALARS = {"learning_rate": 1.0, "rho": 0.95, "epsilon": 1e-7}


@fuzz
@given(cases())
@example(Case(*SPARSE, [(2**63 - 1, 0)], [[1]], scalars=SCALARS))  # No clock has so many rows.
@example(  # Nor has memory the gradient that there should be.
    Case(*SPARSE, [(0, 2**62, 4)], [[]], scalars=SCALARS, mistakes=[("indices", 0, "index", 5)])
)
@example(  # The last of several variables has a bad index.
    Case(*SPARSE, [(2,), (2,)], [[0], [0]], scalars=SCALARS, mistakes=[("indices", 1, "index", 5)])
)
def test_nodes(case):
    inputs = Inputs(case)
    before = inputs.read()
    note(case)
    try:
        run(case, inputs)
    except REFUSED as error:
        assert not is_right(case), error
        assert inputs.read() == before
        return
    if case.op == "FusedAdadeltaSparseApply" and is_right(case):
        check_idle_rows(case, before, inputs.read())
    if case.op == "FusedSquaredNorms":
        assert inputs.read() == before


def check_idle_rows(case, before, after):
    """Rows that no index names are as they were."""
    count = len(case.shapes)
    for number, (a, b) in enumerate(zip(before, after)):
        rows = range(case.shapes[number % count][0]) if a else []
        idle = [row for row in rows if row not in case.indices[number % count]]
        dtypes = [case.dtype, case.state_dtype(), case.state_dtype(), "int64"]
        dtype = dtypes[number // count]
        a, b = (tf.io.parse_tensor(value, dtype).numpy() if a else 0 for value in (a, b))
        if idle:
            assert a[idle].tobytes() == b[idle].tobytes()
