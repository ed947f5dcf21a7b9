"""Draw what of a source a translation reads at each of its tokens: a heat map, source to the right, target downwards.

    python tools/plot_alignment.py runs/rnn --source "Show the file."
    python tools/plot_alignment.py runs/rnn --source "Show the file." --target "Die Datei anzeigen." --output alignment.svg

Without a target the model writes one, its likeliest token by token. For a run of experiments/rnn_translate.py, and for any
other encoder-decoder that shows its attention; of a transformer one layer's, the mean of its heads.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm import cli

FORMATS = (".png", ".svg")
ENTRY = "decoder/cross_attention"


class Aligned(NamedTuple):
    """Weights [T, S], whose rows sum to 1, and the pieces of both texts."""

    weights_TS: np.ndarray
    target: list[str]
    source: list[str]


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.plot_alignment", "A heat map of a translation's alignment.")
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("--source", required=True, metavar="TEXT")
    parser.add_argument("--target", metavar="TEXT", help="without it the model writes one")
    parser.add_argument("--output", metavar="FILE", help=".png or .svg; RUN/alignment.png")
    parser.add_argument("--layer", type=int, default=-1, help="of the decoder, from 0; -1: last")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: plot(options))


def plot(options: argparse.Namespace) -> None:
    """Raises ValueError for another form of file, and as `aligned`."""
    output = Path(options.output or Path(options.run) / "alignment.png")
    if output.suffix not in FORMATS:
        raise ValueError(f"--output {output}: accepted are files that end in {', '.join(FORMATS)}")
    from jaxlm import api  # after the arguments: their mistakes show at once

    found = aligned(api.load(options.run), options.source, options.target, options.layer)
    draw(output, found, f"{Path(options.run).name}: {options.source}")
    print(output)


def aligned(lm: Any, source: str, target: str | None = None, layer: int = -1) -> Aligned:
    """What a model reads of a source at each token of a target.

    Raises:
      ValueError: a model that shows no such thing, or has no such layer.
    """
    shows = getattr(lm.model, "shows", ())
    asked = [name for name in ("cross_attention", "attention") if name in shows][:1]
    if "source" not in lm.model.inputs or not asked:
        raise ValueError(f"{type(lm.model).__name__} shows no attention to a source")
    (sources,) = lm.reader.ids([source])
    targets = written(lm, source) if target is None else lm.tokenizer.encode(target).tolist()
    targets = targets if target is None else [*targets, lm.tokenizer.eos_id]
    tokens = [lm.model.config.decoder_start_id, *targets[:-1]]
    output = lm.model.apply(
        {"params": lm.params}, np.array([tokens]), source=np.array([sources]), shown=tuple(asked)
    )
    layers = np.asarray(output.aux[ENTRY], np.float32)  # [N, 1, H, T, S]
    if not -1 <= layer < len(layers):
        raise ValueError(f"--layer {layer}: the decoder has layers 0 to {len(layers) - 1}")
    weights = layers[layer, 0].mean(0)
    return Aligned(weights, pieces(lm.tokenizer, targets), pieces(lm.tokenizer, sources))


def written(lm: Any, source: str) -> list[int]:
    """The model's own translation, with the token that ends it where it wrote one."""
    ((text,),) = lm.write(source, temperature=0.0)
    return [*text.tokens, *([lm.tokenizer.eos_id] if text.finish == "end" else [])]


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What stands at an axis for each token: a space as ▁, special tokens by name."""
    special = {number: name for name, number in tokenizer.special_ids().items()}
    known = tokenizer.pieces()
    return [special.get(one) or known[one].replace(" ", "▁").replace("\n", "⏎") for one in ids]


def draw(path: Path, found: Aligned, title: str) -> None:
    """Write the picture, in the format that the file's name says."""
    from matplotlib.figure import Figure

    rows, columns = found.weights_TS.shape
    figure = Figure(figsize=(2.5 + 0.28 * columns, 1.8 + 0.28 * rows), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(found.weights_TS, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_xticks(range(columns), map(plain, found.source), rotation=90)
    axes.set_yticks(range(rows), map(plain, found.target))
    axes.set_xlabel("source")
    axes.set_ylabel("target")
    axes.set_title(plain(title), fontsize="medium", wrap=True)
    figure.colorbar(image, ax=axes, label="share of what is read")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format=path.suffix[1:], dpi=150)


def plain(text: str) -> str:
    """Without what matplotlib would read as a formula."""
    return text.replace("$", r"\$")


if __name__ == "__main__":
    sys.exit(main())
