"""Reads from the assembly of a compiler whether it makes vector code of the dense loop.

python ci/vectorised.py                          g++, for this processor's baseline
python ci/vectorised.py aarch64-linux-gnu-g++
python ci/vectorised.py clang++ --target=aarch64-linux-gnu

The options that come after the compiler are handed to it. Ends with an error where a loop of
tests/core/probe.cc has no vector instruction of those that it consists of.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# As CMakeLists.txt has them for the loops.
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
OF_GCC = ("-O2", "-ftree-vectorize", "-fvect-cost-model=dynamic")

# By the first word of the target: what a root, a division and a conversion of float16 look like.
INSTRUCTIONS = {
    "aarch64": {
        "root": r"\bfsqrt\s+v\d+\.(4s|2d)",
        "division": r"\bfdiv\s+v\d+\.(4s|2d)",
        "widening": r"\bfcvtl\s+v\d+\.4s",
        "narrowing": r"\bfcvtn\s+v\d+\.4h",
    },
    "x86_64": {
        "root": r"\bv?sqrtp[sd]\b",
        "division": r"\bv?divp[sd]\b",
        "widening": r"\b(psrad|vcvtph2ps)\b",
        "narrowing": r"\b(psrad|vcvtps2ph)\b",
    },
}
LOOPS = {
    f"Probe{dtype}{options}": ("root", "division", *conversions)
    for dtype, conversions in {
        "Float32": (),
        "Float64": (),
        "BFloat16": (),
        "StochasticBFloat16": (),
        "FloatBFloat16State": (),
        "FloatUInt8State": (),
        "Float16": ("widening", "narrowing"),
    }.items()
    for options in ("", "Options")
}


def bodies(assembly: str) -> dict[str, str]:
    """Returns the instructions of each probe."""
    found = {}
    for name in LOOPS:
        symbol = rf"_ZN11tf_adadelta{len(name)}{name}E\w*"
        match = re.search(rf"^({symbol}):.*?^\s*\.size\s+\1", assembly, re.DOTALL | re.MULTILINE)
        found[name] = match[0] if match else ""
    return found


def main() -> None:
    """Compiles the probes, counts, and says what it found."""
    if any(argument in ("-h", "--help") for argument in sys.argv[1:]):
        sys.exit(__doc__)
    compiler = sys.argv[1:] or ["g++"]
    with tempfile.TemporaryDirectory() as folder:
        assembly = Path(folder) / "probe.s"
        options = OPTIONS if "clang" in compiler[0] else OPTIONS + OF_GCC
        command = [*compiler, *options, f"-I{ROOT}/csrc", "-S", "-o", str(assembly)]
        compiled = subprocess.run(
            [*command, str(ROOT / "tests" / "core" / "probe.cc")], capture_output=True, text=True
        )
        if compiled.returncode != 0:
            sys.exit(f"{' '.join(compiler)} does not compile the probes:\n{compiled.stderr}")
        found = bodies(assembly.read_text())
    triple = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True).stdout
    target = triple.partition("-")[0]
    if target not in INSTRUCTIONS:
        sys.exit(f"ci/vectorised.py knows no instructions of {target}")
    missing = []
    for name, kinds in LOOPS.items():
        counts = {kind: len(re.findall(INSTRUCTIONS[target][kind], found[name])) for kind in kinds}
        print(f"{name:<22} {', '.join(f'{kind} {count}' for kind, count in counts.items())}")
        missing += [f"{kind} in {name}" for kind, count in counts.items() if count == 0]
    if missing:
        sys.exit(f"{' '.join(compiler)} makes no vector code of: {', '.join(missing)}")
    print(f"{len(LOOPS)} of {len(LOOPS)} loops are vector code for {target}")


if __name__ == "__main__":
    main()
