"""Collects what the package can raise or warn from its sources, with … for what varies."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_FOR_USERS = ("cuda_emulation.cc",)  # For the tests.


def collect():
    """Returns the messages, each with the name of its file."""
    found = {}
    for path in [*sorted((ROOT / "tf_adadelta").rglob("*.py")), ROOT / "setup.py"]:
        for message in _of_python(path.read_text()):
            found.setdefault(message, path.name)
    for path in sorted((ROOT / "csrc").rglob("*.*")):
        if path.suffix in (".cc", ".cu", ".h") and path.name not in NOT_FOR_USERS:
            for message in _of_cpp(path.read_text()):
                found.setdefault(message, path.name)
    for path in [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*.cmake")]:
        for literals in re.findall(r'message\(FATAL_ERROR((?:\s*"[^"]*")+)', path.read_text()):
            text = "".join(re.findall(r'"([^"]*)"', literals))
            found.setdefault(_tidy(re.sub(r"\$\{\w+\}", "…", text)), path.name)
    return {
        message: name
        for message, name in found.items()
        if " " in message and re.search("[a-z]{2}", message)
    }


def _tidy(text):
    return re.sub("…+", "…", " ".join(text.split()))


def _of_python(source):
    for node in ast.walk(ast.parse(source)):
        called = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(called, ast.Call) and called.args:
            name = getattr(called.func, "attr", getattr(called.func, "id", ""))
            if isinstance(node, ast.Raise) or name in ("warn", "fail", "error", "_report"):
                yield _tidy(_template(called.args[0]))
        if isinstance(node, ast.FunctionDef) and re.match(
            "_?(why|no_kernel|explain)", node.name.strip("_")
        ):
            for one in ast.walk(node):  # The reasons of the stock update.
                if isinstance(one, ast.Return) and one.value is not None:
                    values = [one.value]
                    if isinstance(one.value, ast.IfExp):
                        values = [one.value.body, one.value.orelse]
                    yield from (_tidy(_template(value)) for value in values)
                if isinstance(one, ast.Assign):
                    yield _tidy(_template(one.value))
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in (
            "message",
            "reason",
            "what",
        ):
            values = [node.value]
            if isinstance(node.value, ast.IfExp):
                values = [node.value.body, node.value.orelse]
            yield from (_tidy(_template(value)) for value in values)


def _template(node):
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    return "…"


def _of_cpp(source):
    source = re.sub(r"//[^\n]*", "", source)
    starts = (
        r"throw py::\w+\(|absl::\w+Error\(|\breturn (?=\"[a-z])|"
        r"k(?:Missing)\[\] =|return \"indices"
    )
    for start in re.finditer(starts + r"|(?:text|found) =\s+(?=std::string|\"[a-z])", source):
        statement = source[start.start() : _end(source, start.end())]
        yield _tidy(_cpp_template(statement.removeprefix(start.group().rstrip('"'))))


def _end(source, position):
    """Returns where a statement ends, past semicolons in strings."""
    for match in re.compile(r'"(?:\\.|[^"\\])*"|;').finditer(source, position - 1):
        if match.group() == ";":
            return match.start()
    return len(source)


def _cpp_template(statement):
    statement = re.sub(r"absl::StrCat|std::to_string|std::string\b|py::\w+_error", "", statement)
    text, last = "", 0
    for literal in re.finditer(r'"((?:\\.|[^"\\])*)"', statement):
        text += "…" * bool(re.search(r"\w", statement[last : literal.start()])) + literal.group(1)
        last = literal.end()
    return text + "…" * bool(re.search(r"\w", statement[last:]))


if __name__ == "__main__":
    print("\n".join(collect()))
