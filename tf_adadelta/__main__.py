"""`python -m tf_adadelta`: reports what was built, or runs a program with the fused optimizers."""

import argparse
import json
import runpy
import sys
from pathlib import Path

from tf_adadelta import _build_info

_DESCRIPTION = """\
Without a program: says what was built, against what, and what is missing. With one: runs it, as
python would, after tf_adadelta.patch_keras(), so that it uses the fused Adadelta unchanged.
"""


def _run(program: list[str], is_module: bool) -> None:
    """Runs a script or a module as the main program, with its arguments."""
    name = program[0]
    if not is_module and not Path(name).exists():
        raise SystemExit(f"tf_adadelta: can't open file '{name}': there is none")
    # Here, and not above: a report needs no TensorFlow.
    import tf_adadelta

    tf_adadelta.patch_keras()
    sys.argv[:] = program
    if is_module:
        sys.path[0] = str(Path.cwd())
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(name).resolve().parent)
        runpy.run_path(name, run_name="__main__")


def main() -> None:
    """Does what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tf_adadelta", description=_DESCRIPTION)
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar=("module", "argument"),
        help="run a module, with its arguments",
    )
    parser.add_argument(
        "script",
        nargs=argparse.REMAINDER,
        metavar="script",
        help="run a script, with its arguments",
    )
    arguments = parser.parse_args()
    if arguments.module == []:
        parser.error("-m needs the name of a module")
    program = arguments.module or arguments.script
    if program and arguments.json:
        parser.error("--json is for the report, without a program")
    if program:
        _run(program, is_module=bool(arguments.module))
    elif arguments.json:
        print(json.dumps(_build_info.facts(), indent=2))
    else:
        print(_build_info.report())


if __name__ == "__main__":
    main()
