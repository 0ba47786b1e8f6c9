"""Every code block of README, docs and docstrings runs; the site is built without a warning."""

import contextlib
import doctest
import functools
import html.parser
import http.server
import importlib
import inspect
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from unittest import mock
from urllib.parse import unquote

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_adadelta
from tf_adadelta import _build_info, kernels, ops

tf_keras = pytest.importorskip("tf_keras")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))  # Last, and for `benchmarks`, which is not installed.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "tf_adadelta").rglob("*.py"))
]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def make_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile(optimizer=keras.optimizers.Adadelta(), loss="mse")
    return model


@pytest.fixture
def names(tmp_path, monkeypatch):
    """What the blocks take for granted: a model, data, variables and files of both optimizers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TF_ADADELTA_STRICT")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4)).astype(np.float32), np.ones((8, 1), np.float32)
    for file, make in (
        ("trained_with_keras.keras", keras.optimizers.Adadelta),
        ("trained_with_tf_adadelta.keras", tf_adadelta.Adadelta),
    ):
        model = make_model()
        model.compile(optimizer=make(), loss="mse")
        model.fit(x, y, verbose=0)
        model.save(file)
    path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save("checkpoint")
    zeros = lambda count=5: [tf.Variable(tf.zeros(count)) for _ in range(2)]  # noqa: E731
    yield {
        "__name__": "docs",
        "keras": keras,
        "tf": tf,
        "np": np,
        "tf_adadelta": tf_adadelta,
        "model": model,
        "x": x,
        "y": y,
        "path": path,
        "variables": zeros(),
        "accums": zeros(),
        "accum_updates": zeros(),
        "grads": [tf.ones(5)] * 2,
    }
    tf_adadelta.unpatch_keras()
    keras.config.set_dtype_policy("float32")


def of_the_ops(names):
    names["indices"] = [tf.constant([1, 1, 0, 3, 2])] * 2
    names["clocks"] = [tf.Variable(tf.zeros(6, tf.int64)) for _ in range(2)]


def of_the_kernel(names):
    for name in ("x", "accum", "accum_update", "grad"):
        names[name] = np.ones(3, np.float32)


def of_a_loop(names):
    names["make_model"] = make_model
    names["dataset"] = tf.data.Dataset.from_tensors((names["x"], names["y"]))
    names["losses_of"] = lambda outputs, labels: (outputs - labels) ** 2
    names["global_batch_size"] = 8
    with tf.distribute.get_strategy().scope():
        names["optimizer"] = tf_adadelta.Adadelta()


def of_a_server(names):
    """Not a real one, which never returns; tests/cluster.py starts those."""
    names["tf"] = mock.Mock()
    names["cluster_spec"], names["job"], names["index"] = {}, "ps", 0


# What single blocks take for granted besides, by their page and how they begin.
BEFORE = {
    ("README.md", "from tf_adadelta import ops"): of_the_ops,
    ("README.md", "from tf_adadelta import kernels\n\nkernels.fused"): of_the_kernel,
    ("README.md", "model.load_weights("): lambda names: names["model"].compile(
        tf_adadelta.Adadelta(), "mse"
    ),
    ("distributed.md", "strategy ="): of_a_loop,
    ("distributed.md", "import tf_adadelta\n\ntf_adadelta.load_library()\nserver"): of_a_server,
}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem
)
def test_python_blocks(page, names):
    """In order, as somebody who reads the page types them."""
    for i, block in enumerate(blocks(page, "python")):
        for (name, beginning), prepare in BEFORE.items():
            if block.startswith(beginning) and page.name == name:
                prepare(names)
        exec(compile(block, f"{page.name}, block {i}", "exec"), names)


def examples():
    for module in map(importlib.import_module, MODULES):
        for test in doctest.DocTestFinder(exclude_empty=True).find(module):
            if test.examples:
                yield pytest.param(test, id=test.name)


@pytest.mark.parametrize("test", examples())
def test_docstrings(test, names):
    """Of the graphs of TensorFlow 1 in a graph, with a loss and a session."""
    source = "".join(example.source for example in test.examples)
    if "tf_keras" in test.name:
        names["model"] = tf_keras.Sequential([tf_keras.layers.Dense(1)])
    with tf.Graph().as_default() if "session" in source else contextlib.nullcontext():
        if "session" in source:
            variable = tf.compat.v1.get_variable("v", initializer=2.0)
            names["loss"] = variable**2
            names["session"] = tf.compat.v1.Session()
        elif "minimize" in source:
            variable = names["variable"] = tf.Variable(2.0)
            names["loss"] = lambda: variable**2
        for example in test.examples:
            exec(compile(example.source, test.name, "single"), names)
            if "minimize" in example.source and "session" in source:
                names["session"].run(tf.compat.v1.global_variables_initializer())


def test_every_example_of_a_docstring_is_seen():
    """A docstring that is not collected would not be run."""
    sources = (path.read_text() for path in (ROOT / "tf_adadelta").rglob("*.py"))
    written = sum(len(re.findall(r"^ *>>> ", source, re.MULTILINE)) for source in sources)
    assert sum(len(test.values[0].examples) for test in examples()) == written


PROGRAMS = {"train.py": "import keras; keras.optimizers.Adadelta()", "package/train.py": ""}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "sh")], ids=lambda page: page.stem
)
def test_commands_name_what_there_is(page):
    """Those that install and test are run by .ci/run, and `python -m tf_adadelta` by its tests."""
    extras = re.findall(r'^        "([\w-]+)": ', (ROOT / "setup.py").read_text(), re.M)
    for command in re.split(r"\n| && ", "".join(blocks(page, "sh"))):
        for extra in re.findall(r"\.\[([\w,-]+)\]", command):
            assert set(extra.split(",")) <= set(extras), command
        for module in re.findall(r"python -m (\w\S+)", command):
            assert module == "venv" or importlib.util.find_spec(module), command
        for script in re.findall(r"python (?:-m tf_adadelta )?(\w\S*\.py)", command):
            assert (ROOT / script).exists() or script in PROGRAMS, command


def test_report_in_readme_has_the_lines_of_the_report():
    (block,) = blocks(ROOT / "README.md", "text")
    names = [line.split(":")[0] for line in block.splitlines()]
    lines = [line.split(":")[0] for line in _build_info.report().splitlines() if line[0] != " "]
    assert names == lines


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.targets, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.ids.add(values.get("id"))
        self.targets += [values[name] for name in ("href", "src") if values.get(name)]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_site_has_no_dead_links(site):
    pages = {page: Links(page.read_text()) for page in site.rglob("*.html")}
    assert len(pages) > 15
    outside = set()
    for page, links in pages.items():
        for target in links.targets if page.name != "404.html" else ():
            if re.match("https?:|mailto:|data:|javascript:", target):
                outside.add(target)
                continue
            path, _, anchor = unquote(target).partition("#")
            found = (page.parent / path).resolve() if path else page
            assert found.exists(), f"{page.relative_to(site)} links to {target}"
            if anchor and found in pages:
                assert anchor in pages[found].ids | {"__"}, f"{page.name} links to {target}"
    assert all(target.startswith(("https://", "http://")) for target in outside)


def test_links_between_markdown_files():
    """Those of README and of what lies beside the site."""
    for page in [page for page in PAGES if "site" not in page.parts]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_reference_has_everything_public(site):
    text = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    for name in set(tf_adadelta.__all__) - {"compat", "kernels", "ops", "tf_keras"}:
        assert re.search(rf'id="tf_adadelta\.[\w.]*\b{name}"', text), name
    for module in (kernels, ops):
        for name, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            if own and not re.search("^_|handles$|^as_hyper", name):  # Those are for the others.
                assert f'id="{module.__name__}.{name}"' in text, name


def test_search_knows_the_site(site):
    index = json.loads((site / "search" / "search_index.json").read_text())
    text = " ".join(entry["text"] for entry in index["docs"])
    for word in ("patch_keras", "sparse_update", "MirroredStrategy", "check_numerics"):
        assert word in text


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site, and notes what a page of ours says of it."""

    said = queue.Queue()

    def do_GET(self):
        if self.path.startswith("/said/"):
            self.said.put(unquote(self.path.removeprefix("/said/")))
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(site):
    """The address of the site: its search asks for files, which a browser gives to servers only."""
    handler = functools.partial(Handler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


# Looks at the site until its search has an answer, and tells the server.
PROBE = """<iframe id="site" src="index.html?q=WORD"></iframe><script>
const look = () => {
  const line = site.contentDocument?.querySelector(".md-search-result__meta");
  const text = line?.textContent.trim() ?? "";
  if (/matching/.test(text)) fetch("/said/" + encodeURIComponent(text));
  else setTimeout(look, 50);
};
look();
</script>"""


def look_at(address, profile, *flags):
    """Returns what a page has become, and what it wrote to the console."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", *flags]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=5000"]
    result = subprocess.run(
        [*command, "--enable-logging=stderr", address], capture_output=True, text=True, timeout=120
    )
    console = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    return result.stdout, console


@pytest.mark.parametrize("scheme, flags", [("default", ()), ("slate", ("preferredColorScheme=0",))])
@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("page", ["index", "guides/how-it-works", "reference/optimizers"])
@pytest.mark.browser
@needs_chromium
def test_pages_are_quiet_in_the_browser(served, tmp_path, page, width, scheme, flags):
    """Wide and narrow, light and dark: no error and no warning."""
    text, console = look_at(
        f"{served}/{page}.html",
        tmp_path,
        f"--window-size={width},900",
        *(f"--blink-settings={flag}" for flag in flags),
    )
    assert not console
    assert f'data-md-color-scheme="{scheme}"' in text


@pytest.mark.browser
@needs_chromium
@pytest.mark.parametrize("word, found", [("accumulation", True), ("zebra", False)])
def test_search_in_the_browser(site, served, tmp_path, word, found):
    (site / "probe.html").write_text(PROBE.replace("WORD", word))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    browser = subprocess.Popen(
        [CHROMIUM, *flags, f"--user-data-dir={tmp_path}", f"{served}/probe.html"],
        stderr=subprocess.DEVNULL,
    )
    try:
        said = Handler.said.get(timeout=60)
    finally:
        browser.terminate()
        browser.wait(timeout=30)
    assert re.fullmatch(r"\d+ matching documents?" if found else "No matching documents", said)


@pytest.mark.browser
@needs_chromium
def test_an_error_would_be_seen(site, served, tmp_path):
    (site / "broken.html").write_text("<script>nowhere()</script>")
    assert len(look_at(f"{served}/broken.html", tmp_path)[1]) == 1
