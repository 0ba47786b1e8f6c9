"""That the benchmarks run, and judge right; what they measure is not for a test to say."""

import dataclasses
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from conftest import needs_xla

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # Last: the package that is tested is the installed one.

from benchmarks import __main__ as command_line  # noqa: E402
from benchmarks import (  # noqa: E402
    compare,
    contestants,
    frameworks,
    gpu,
    growth,
    plot,
    profile_variables,
    report,
    results,
    targets,
)
from benchmarks.cases import Case  # noqa: E402
from benchmarks.contestants import CONTESTANTS, Contestant, Prepared, Work  # noqa: E402
from benchmarks.cpu_cases import make_cpu_cases  # noqa: E402
from benchmarks.names import EAGER, FUNCTION, FUSED, JIT, KERAS, LIMIT, OPTAX, STOCK_OP  # noqa: E402
from benchmarks.suite import Suite  # noqa: E402
from benchmarks.timing import measure  # noqa: E402
from benchmarks.verification import verify  # noqa: E402
from tf_adadelta import kernels  # noqa: E402

_MODES = {LIMIT: None, FUSED[FUNCTION]: FUNCTION, KERAS[FUNCTION]: FUNCTION, STOCK_OP: FUNCTION}
_ROUNDS = 9


def run_module(module, *arguments):
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


def make_run(fused_ms=1.2, noise=0.01, **changes):
    """A run of two sizes and a model, as it would have been measured."""
    milliseconds = {LIMIT: 1.0, FUSED[FUNCTION]: fused_ms, KERAS[FUNCTION]: 6.0, STOCK_OP: 2.0}
    contestants = [Contestant(name, mode, None) for name, mode in _MODES.items()]
    cases = [
        results.summarize(
            Case(section, name, "", shapes),
            contestants,
            {
                name: [1e-3 * value * (1 + noise * ((i * len(name)) % 5)) for i in range(_ROUNDS)]
                for name, value in milliseconds.items()
            },
            FUSED,
        )
        for section, name, shapes in (
            ("size", "1e3", ((1000,),)),
            ("size", "16M", ((2**24,),)),
            ("models", "resnet50", ((256,),) * 200),
        )
    ]
    run = results.Run("cpu", False, {"processor": "a"}, {}, cases, [], [])
    return dataclasses.replace(run, **changes)


def write_run(path, **arguments):
    results.write_json(make_run(**arguments), path)
    return str(path)


@needs_xla
def test_quick_run(tmp_path):
    chosen = r"(1e[34]|mobilenet|use_ema)/(fused|Keras) tf.f|size/1e3/.*jit|mlp/.*fit tf"
    result = run_module(
        "benchmarks", "--quick", "--filter", chosen, "--output", str(tmp_path), "--threads", "1"
    )
    assert result.returncode == 0, result.stderr
    run = results.read_json(tmp_path / "cpu.json")
    assert run.quick and run.environment["threads"] == 1
    assert [case.path for case in run.cases] == [
        "size/1e3",
        "size/1e4",
        "models/mobilenet",
        "options/use_ema",
        "training/mlp",
    ]
    for case in run.cases:
        assert case.row(LIMIT)  # Always measured along.
        assert all(row.median_ms > 0 for row in case.rows)
    written = (tmp_path / "cpu.md").read_text()
    assert "--quick" in written and "cpu_size.png" in written and "cpu_models.png" in written
    assert "NOT met" in written or "met" in written


def test_results_survive_the_file(tmp_path):
    run = make_run(missing={OPTAX: "jax not installed"})
    results.write_json(run, tmp_path / "run.json")
    assert results.read_json(tmp_path / "run.json") == run


def test_ratios_are_medians_of_rounds_with_their_interval():
    ratio = results.Ratio.of([2, 4, 6, 8, 10, 12, 14, 16, 18], [2] * 9)
    assert (ratio.median, ratio.low, ratio.high) == (5, 2, 8)  # The 2nd and the 8th of nine.
    assert not ratio.stable
    assert results.Ratio.of([1.0, 1.05, 1.09], [1.0] * 3).stable


def test_limit_counts_the_bytes_of_the_options():
    case = Case("options", "use_ema", "", ((1000,),), options={"use_ema": True}, extra_bytes=8)
    contestants = [Contestant(LIMIT, None, None), Contestant(FUSED[FUNCTION], FUNCTION, None)]
    samples = {LIMIT: [28e-6] * 3, FUSED[FUNCTION]: [36e-6] * 3}
    limit, fused = results.summarize(case, contestants, samples, FUSED).rows
    assert limit.gigabytes_per_second == pytest.approx(1)
    assert fused.gigabytes_per_second == pytest.approx(1)
    assert fused.fraction_of_limit.median == pytest.approx(1)


@pytest.mark.parametrize(
    ("fused_ms", "slower", "status"),
    [(1.2, "1.1", 0), (1.25, "1.1", 0), (1.5, "1.1", 1), (1.5, "1.3", 0), (0.9, "1", 0)],
)
def test_compare_fails_when_ours_is_slower(tmp_path, fused_ms, slower, status):
    old = write_run(tmp_path / "old.json")
    new = write_run(tmp_path / "new.json", fused_ms=fused_ms)
    result = run_module("benchmarks.compare", old, new, "--slower", slower)
    assert result.returncode == status, result.stderr
    assert ("SLOWER" in result.stdout) == bool(status)
    assert f"{FUSED[FUNCTION]}" in result.stdout and "[" in result.stdout


def test_compare_is_not_fooled_by_noise_or_a_slower_machine(tmp_path, capsys):
    old = make_run(noise=0.1)
    assert compare.report_changes(old, make_run(fused_ms=1.4, noise=0.1), 1.1) == 0
    assert compare.report_changes(make_run(), make_run(fused_ms=1.4), 1.1) == 1
    slow = make_run(environment={"processor": "b"})
    for case in slow.cases:
        for row in case.rows:
            row.samples_ms[:] = [3 * value for value in row.samples_ms]
    assert compare.report_changes(make_run(), slow, 1.1) == 0
    assert "processor was a, is b" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ('{"rows": []}', "does not hold the results"),
        ("[1]", "does not hold the results"),
        ('{"format": 2}', "does not hold a whole run"),
    ],
)
def test_compare_with_what_is_no_run(tmp_path, content, message):
    path = tmp_path / "old.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(results.NotResultsError, match=message):
        results.read_json(path)


def test_compare_with_nothing_in_common():
    with pytest.raises(results.NotResultsError, match="no case in common"):
        compare.report_changes(make_run(), make_run(cases=[]), 1.1)


def test_report_names_what_is_unstable_missing_and_slower():
    run = make_run(
        fused_ms=7.0, noise=0.06, missing={OPTAX: "jax not installed", "x": "jax not installed"}
    )
    text = report.summary(run)
    assert f"Not measured: {OPTAX} and x: jax not installed." in text
    assert "**Not stable**" in text and f"size/1e3: {KERAS[FUNCTION]}" in text
    slower = text[text.index("## Where ours is slower") : text.index("## Ours in short")]
    assert f"| models/resnet50 | {STOCK_OP} " in slower
    calm = report.summary(make_run(noise=0))
    assert "Not stable" not in calm and "Nowhere" in calm and "Not measured" not in calm


def test_report_puts_the_bytes_of_an_option_beside_its_times():
    case = Case("options", "use_ema", "", ((1000,),), options={"use_ema": True}, extra_bytes=8)
    names = {LIMIT: None, FUSED[FUNCTION]: FUNCTION, KERAS[FUNCTION]: FUNCTION}
    samples = {LIMIT: [1e-3], FUSED[FUNCTION]: [2e-3], KERAS[FUNCTION]: [8e-3]}
    measured = results.summarize(
        case, [Contestant(name, mode, None) for name, mode in names.items()], samples, FUSED
    )
    text = report.summary(make_run(cases=[measured]))
    (line,) = [line for line in text.splitlines() if line.startswith("| use_ema")]
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    assert cells == ["use_ema", "36", "2.000", "8.000", "4.00 [4.00, 4.00]", "", "", ""]


def test_plots_are_drawn_again_from_the_file(tmp_path):
    file = write_run(tmp_path / "cpu.json")
    result = run_module("benchmarks.plot", file)
    assert result.returncode == 0, result.stderr
    for name in ("cpu_size.png", "cpu_models.png"):
        assert 1000 < (tmp_path / name).stat().st_size < 200_000
    assert plot.write_plots(make_run(cases=[]), tmp_path) == {}


def test_targets_are_judged_or_left_out():
    wanted = targets.Target("size/16M", "", STOCK_OP, (FUSED[FUNCTION], KERAS[FUNCTION]), 2)
    (met,) = targets.evaluate(make_run(fused_ms=0.9, noise=0).cases, [wanted])
    (missed,) = targets.evaluate(make_run(fused_ms=1.1, noise=0).cases, [wanted])
    assert met.met and met.measured == pytest.approx(2 / 0.9)  # The fastest of ours counts.
    assert not missed.met
    absent = dataclasses.replace(wanted, numerator=OPTAX)
    assert targets.evaluate(make_run().cases, [absent]) == []
    assert targets.evaluate([], [wanted]) == []


def test_overheads_are_found_again():
    name = FUSED[FUNCTION]

    def case(variables, elements):
        seconds = 5e-6 + 2e-6 * variables + 0.1e-9 * elements
        shapes = ((elements // variables,),) * variables
        return results.summarize(
            Case("variables", "", "", shapes),
            [Contestant(name, FUNCTION, None)],
            {name: [seconds]},
            FUSED,
        )

    sizes = [(1, 1000), (1, 100_000), (10, 100_000), (100, 100_000), (1000, 100_000)]
    (found,) = growth.fit_overheads([case(*size) for size in sizes])
    assert found.call_us == pytest.approx(5)
    assert found.variable_us == pytest.approx(2)
    assert found.element_ns == pytest.approx(0.1)
    assert found.error < 1e-6
    assert growth.fit_overheads([case(1, 1000), case(1, 2000)]) == []


def test_rounds_end_when_they_are_enough_or_time_is_over():
    contestants = {name: Prepared(lambda: None, list) for name in "ab"}

    def rounds(**limits):
        samples = measure(contestants, 20, lambda name: None, lambda one: 1.0, **limits)
        assert len(samples["a"]) == len(samples["b"])
        return len(samples["a"])

    assert rounds() == 20
    assert rounds(enough=lambda samples: True) == 9
    assert rounds(enough=lambda samples: len(samples["a"]) == 12) == 12
    assert rounds(seconds=0) == 5  # Far too late for nine.

    def slow(done):
        samples = measure(contestants, 20, lambda name: time.sleep(0.002), lambda one: 1.0, **done)
        return len(samples["a"])

    assert slow({"seconds": 0.03}) == 9


def make_suite(cases):
    return Suite("cpu", cases, CONTESTANTS, FUSED, (), Work, None, {}, "")


def test_filter_keeps_what_the_chosen_are_compared_with():
    suite = make_suite(make_cpu_cases(2))
    chosen = suite.matching(re.compile("resnet50/Keras eager"))
    (case,) = chosen.cases
    names = [one.name for one in chosen.contestants_of(case)]
    assert names == [LIMIT, FUSED[EAGER], KERAS[EAGER]]
    sizes = suite.matching(re.compile("^size/"))
    assert {case.section for case in sizes.cases} == {"size"}
    assert suite.matching(re.compile("nothing is called so")).cases == []
    assert all(case.elements <= 2**19 for case in suite.quick().cases)


@pytest.mark.parametrize(("arguments", "slow"), [([], []), (["--all"], [KERAS[JIT]])])
def test_list(arguments, slow, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "make_cpu_suite", lambda threads: make_suite(sizes))
    contestants = (LIMIT, FUSED[FUNCTION], FUSED[JIT], STOCK_OP)
    sizes = [Case("size", "1e3", "", ((1000,),), contestants, slow=(KERAS[JIT],))]
    pattern = f"{STOCK_OP}|{KERAS[JIT]}"
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--list", "--filter", pattern, *arguments])
    command_line.main()
    listed = capsys.readouterr().out.split()
    fused = [FUSED[FUNCTION], *([FUSED[JIT]] if slow else [])]
    expected = [f"size/1e3/{name}" for name in (LIMIT, *fused, *slow, STOCK_OP)]
    assert listed == " ".join(expected).split()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "("], "is not a regular expression"),
        (["--filter", "nothing is called so"], "matches nothing: see --list"),
        (["--threads", "0"], "--threads is 0, expected 1 to"),
        (["--threads", "100000"], "--threads is 100000, expected 1 to"),
        (["--threads", "two"], "invalid int value"),
        (["--slower", "0.9"], "is not a finite number of 1 or more"),
        (["--slower", "nan"], "is not a finite number of 1 or more"),
        (["--slower", "x"], "invalid"),
        (["--compare", "missing.json"], "missing.json cannot be read"),
        (["--output", __file__], "is not a directory"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_bad_arguments(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(command_line, "make_cpu_suite", lambda threads: make_suite([]))
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as stop:
        command_line.main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_contestant_that_computes_something_else_is_caught():
    fused = next(one for one in CONTESTANTS if one.name == FUSED[FUNCTION])

    def prepare_wrong(work):
        prepared = fused.prepare(work)
        return Prepared(prepared.step, lambda: [value + 1e-3 for value in prepared.values()])

    def prepare_broken(work):
        raise OSError("no compiler\nwas found")

    def make_work(case):
        return Work(case, 1)

    wrong = Contestant("wrong", FUNCTION, prepare_wrong)
    with pytest.raises(RuntimeError, match="wrong does not compute the Adadelta update"):
        verify([wrong], make_work, lambda name: None)
    broken = Contestant("broken", FUNCTION, prepare_broken, foreign=True)
    assert verify([fused, broken], make_work, lambda name: None) == {
        "broken": "OSError: no compiler"
    }
    with pytest.raises(OSError, match="no compiler"):
        verify([dataclasses.replace(broken, foreign=False)], make_work, lambda name: None)


def test_what_cannot_be_measured_is_named(monkeypatch):
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name != "jax" else "found"
    )
    missing = {**contestants.find_missing(), **frameworks.find_missing()}
    suite = make_suite(()).without(missing)
    names = [one.name for one in suite.contestants]
    assert "Keras eager" in names and not any("PyTorch" in name for name in names)
    assert suite.missing["tf_keras legacy eager"] == "tf_keras is not installed"
    assert suite.missing["PyTorch torch.compile"] == "torch not installed"
    assert suite.missing[OPTAX] == "optax not installed"


def test_profile():
    text = profile_variables.profile(count=3, elements=5, rounds=2)
    assert "| lookup, lock and validation of 3 variables " in text
    assert "TFE_Py_Execute" in text and "TFE_Py_FastPathExecute" in text


def test_paper(tmp_path):
    pytest.importorskip("mlxtend")
    result = run_module("benchmarks.paper", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    experiment = json.loads((tmp_path / "paper.json").read_text())
    assert experiment["quick"]
    learned = min(cell["errors"][0] for cell in experiment["cells"])
    assert learned < 0.3
    assert all(step > 0 for curve in experiment["curves"] for step in curve["percentiles"][-1])
    assert "--quick" in (tmp_path / "paper.md").read_text()
    assert (tmp_path / "paper.png").stat().st_size < 200_000


def test_without_a_gpu():
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="python -m benchmarks --device gpu: "):
        gpu.make_gpu_suite()


def test_dtypes(tmp_path):
    result = run_module("benchmarks.dtypes", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "dtypes.json").read_text())["rows"]
    assert {row["dtype"] for row in rows} == {
        "float16",
        "bfloat16",
        "bfloat16, stochastic",
        "float32",
        "float32, averages in bfloat16",
        "float32, averages in 8 bits",
    }
    assert {row["instruction_set"] for row in rows} == set(kernels.instruction_sets())
    assert "of its copy limit" in (tmp_path / "dtypes.md").read_text()


def test_rounding(tmp_path):
    pytest.importorskip("mlxtend")
    result = run_module("benchmarks.rounding", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    curves = json.loads((tmp_path / "rounding.json").read_text())["curves"]
    assert len(curves) == 10  # Two tasks, five forms, one seed.
    assert all(0 < curve["losses"][-1] < 1 for curve in curves)
    assert "/ float32" in (tmp_path / "rounding.md").read_text()
    assert (tmp_path / "rounding.png").stat().st_size < 200_000


def test_memory(tmp_path):
    pytest.importorskip("mlxtend")
    result = run_module("benchmarks.memory", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "memory.json").read_text())["rows"]
    wide, narrow = (row["bytes_an_element"] for row in rows)
    # Beside the state little comes and goes.
    assert (wide, narrow) == (pytest.approx(8, abs=0.5), pytest.approx(2, abs=0.5))
    assert "bytes an element" in (tmp_path / "memory.md").read_text()


def test_sparse(tmp_path):
    result = run_module("benchmarks.sparse", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "sparse.json").read_text())["quick"]
    assert "Zipf" in (tmp_path / "sparse.md").read_text()
    assert (tmp_path / "sparse.png").stat().st_size < 100_000


@pytest.mark.distribute
def test_replicas(tmp_path):
    result = run_module("benchmarks.replicas", "--quick", "--output", str(tmp_path))
    assert result.returncode == 0, result.stderr
    results = json.loads((tmp_path / "replicas.json").read_text())["results"]
    assert [one["replicas"] for one in results] == [1, 2]
    assert "--quick" in (tmp_path / "replicas.md").read_text()
    assert (tmp_path / "replicas.png").stat().st_size < 100_000
    run_module("benchmarks.replicas", "--quick", "--replicas", "1", "--output", str(tmp_path))
    again = json.loads((tmp_path / "replicas.json").read_text())["results"]
    assert again[0] != results[0] and again[1] == results[1]


@pytest.mark.distribute
@pytest.mark.skipif(
    "double_checkpoint" not in inspect.signature(keras.callbacks.BackupAndRestore).parameters,
    reason="this Keras cannot keep a backup while it writes the next",
)
@pytest.mark.parametrize(
    "case",
    ["exact MirroredStrategy CheckpointManager", "EMA and decay one process BackupAndRestore"],
)
def test_killed_and_restarted(tmp_path, case):
    """Three of the twenty kills, and the bits of a job that was never killed."""
    arguments = ("--kills", "3", "--filter", case, "--output", str(tmp_path))
    result = run_module("benchmarks.restarts", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    (outcome,) = json.loads((tmp_path / "restarts.json").read_text())["cases"]
    assert outcome["error"] is None
    assert outcome["differ"] == [] and outcome["arrays"] >= 14
    assert sum(outcome["moments"].values()) == outcome["kills"] == 3
