"""What works under which strategy: runs all of it, and writes the table of docs/distributed.md.

python tests/support.py
"""

import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from cluster import Cluster
from strategy_task import cells, file_name

DOCUMENT = Path(__file__).parents[1] / "docs" / "distributed.md"
STRATEGIES = {
    "one_device": "OneDeviceStrategy",
    "mirrored": "MirroredStrategy",
    "central": "CentralStorageStrategy",
    "multi_worker": "MultiWorkerMirroredStrategy",
    "coordinate": "ParameterServerStrategy",
}
MODES = {
    "dense": "dense gradients",
    "exact": 'sparse, `"exact"`',
    "lazy": 'sparse, `"lazy"`',
    "summed by hand": "summed by hand",
    "fit": "`fit`",
    "jit_compile": "`jit_compile=True`",
}
APIS = {
    "keras": "Keras 3",
    "tf_keras": "tf_keras",
    "legacy": "tf_keras legacy",
    "v1": "TensorFlow 1",
}
_TABLE = re.compile(r"(?<=<!-- table -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def run(role, directory):
    """Trains under a strategy; returns the directories with the results, one for each process."""
    strict = {"TF_ADADELTA_STRICT": "1"}  # What is not fused is then an error.
    if role == "multi_worker":
        outputs = [directory / "0", directory / "1"]
        with Cluster(directory, worker=2) as cluster:
            for i, output in enumerate(outputs):
                output.mkdir()
                cluster.start("worker", i, "strategy_task.py", role, output, **strict)
            cluster.wait(*cluster.tasks)
        return outputs
    sizes = {"worker": 2, "ps": 2} if role == "coordinate" else {}
    with Cluster(directory, chief=1, **sizes) as cluster:
        for job, size in sizes.items():
            for i in range(size):
                cluster.start(job, i, "strategy_task.py", "serve")
        if not sizes:
            strict["TF_CONFIG"] = "{}"
        cluster.wait(cluster.start("chief", 0, "strategy_task.py", role, directory, **strict))
    return [directory]


def load(output, api, mode, fused):
    """Returns what came of a training, arrays by name."""
    with np.load(output / file_name(api, mode, fused)) as arrays:
        return dict(arrays)


def cell(role, output, api, mode):
    """Returns what the table says."""
    if (api, mode) not in cells(role):
        return "–"
    stock, fused = (load(output, api, mode, fused) for fused in (False, True))
    if "error" in fused:
        kind = str(fused["error"]).split(":")[0]
        return f"as stock: `{kind}`" if "error" in stock else f"**only stock**: `{kind}`"
    calls = fused.get("calls")
    if calls is None:
        return "fused"
    return f"{len(calls)} call{'s' if len(calls) != 1 else ''}"


def table(outputs):
    """Returns the table, from the results of one process for each role."""
    lines = ["| strategy | mode | " + " | ".join(APIS.values()) + " |", "|" + " :--- |" * 6]
    for role, strategy in STRATEGIES.items():
        for mode, description in MODES.items():
            row = [cell(role, outputs[role], api, mode) for api in APIS]
            lines.append(f"| {strategy} | {description} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def written_table():
    """Returns the table as it stands in the document."""
    return _TABLE.search(DOCUMENT.read_text(encoding="utf-8")).group()


def main():
    outputs = {}
    with tempfile.TemporaryDirectory() as directory:
        for role in STRATEGIES:
            print(role, file=sys.stderr)
            (Path(directory) / role).mkdir()
            outputs[role] = run(role, Path(directory) / role)[0]
        new = table(outputs)
    print(new)
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(_TABLE.sub(lambda _: new, text), encoding="utf-8")


if __name__ == "__main__":
    main()
