"""For MkDocs: the pictures of the benchmark are taken from where the benchmark writes them."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
PICTURES = ("cpu_size.png", "cpu_models.png", "sparse.png")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pictures, as if they were in a folder of the site."""
    for name in PICTURES:
        path = str(RESULTS / name)
        files.append(File.generated(config, f"pictures/{name}", abs_src_path=path))
    return files
