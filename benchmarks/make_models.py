"""Writes models.json, the shapes of real models' variables: `python -m benchmarks.make_models`."""

import json
import math
import textwrap
from pathlib import Path

import keras

Shapes = list[list[int]]

MODELS = Path(__file__).with_name("models.json")


def _of_application(make: type[keras.Model]) -> Shapes:
    return [list(variable.shape) for variable in make(weights=None).trainable_variables]


def _bert_base() -> Shapes:
    """BERT-base, uncased, with its pooler (Devlin et al. 2018, arXiv:1810.04805)."""
    hidden, inner, layers = 768, 3072, 12
    norm = [[hidden], [hidden]]
    dense = [[hidden, hidden], [hidden]]
    embeddings = [[30522, hidden], [512, hidden], [2, hidden], *norm]
    layer = [*dense * 4, *norm, [hidden, inner], [inner], [inner, hidden], [hidden], *norm]
    return [*embeddings, *layer * layers, *dense]


def _wide_embedding() -> Shapes:
    """A click model: 26 tables of 10 to 300,000 rows, as many as Criteo's data has, and an MLP."""
    width, numeric, units = 16, 13, [512, 256, 1]
    rows = [round(10 * 30_000 ** (i / 25)) for i in range(26)]
    inputs = [26 * width + numeric, *units]
    mlp = [shape for pair in zip(inputs, units) for shape in (list(pair), [pair[1]])]
    return [*([count, width] for count in rows), *mlp]


def main() -> None:
    """Writes the file."""
    models = {
        "resnet50": _of_application(keras.applications.ResNet50),
        "mobilenet": _of_application(keras.applications.MobileNet),
        "bert-base": _bert_base(),
        "embedding": _wide_embedding(),
    }
    lists = [
        f'  "{name}": [\n'
        + textwrap.fill(
            json.dumps(shapes)[1:-1].replace(", ", ",\0").replace("],\0", "], "),
            width=100,
            initial_indent=" " * 4,
            subsequent_indent=" " * 4,
            break_long_words=False,
        ).replace(",\0", ", ")
        + "\n  ]"
        for name, shapes in models.items()
    ]
    MODELS.write_text("{\n" + ",\n".join(lists) + "\n}\n", encoding="utf-8")
    for name, shapes in models.items():
        print(f"{name}: {len(shapes)} variables, {sum(map(math.prod, shapes)):,} elements")


if __name__ == "__main__":
    main()
