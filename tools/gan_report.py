"""Generators taught by a discriminator beside the same one taught by likelihood alone, over a sweep of temperatures.

    python tools/gan_report.py --workdir runs/gan --output runs/gan/report
    python tools/gan_report.py --workdir runs/gan --output report --config.num_steps=600 --config.step.pretrain_fraction=0.9

Trains experiments/families/gan.py, seqgan.py, and gan.py without its game (as many steps of likelihood); what is finished is not
trained again. Of every generator and temperature texts are drawn behind first tokens of held-out windows, as long as these, and
judged by models that are none of the players: forward perplexity is that of the fakes under a Kneser-Ney model of the training
text (do they look real?), reverse perplexity that of held-out text under a Kneser-Ney model counted on the fakes (do they cover what
is real? Zhao et al. 2018, arXiv:1706.04223, section 5.2). One temperature would compare points of two curves (Caccia et al. 2020,
arXiv:1811.02549). Writes OUTPUT.json, .md and .png.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxlm import cli, config

FAMILIES = Path(__file__).resolve().parent.parent / "experiments" / "families"
RUNS = {
    "likelihood": ("gan.py", False),
    "gumbel": ("gan.py", True),
    "seqgan": ("seqgan.py", True),
}
"""Name -> experiment, and whether the game is played."""
REAL = "real text"
SCORES = ("forward_perplexity", "reverse_perplexity", "distinct_1", "distinct_2", "self_bleu")


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    arguments, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    parser = cli.Parser("tools.gan_report", "GANs of texts beside the likelihood, by temperature.")
    parser.add_argument("--workdir", required=True, help="a folder for all runs")
    parser.add_argument("--output", required=True, help="where .json, .md and .png go")
    parser.add_argument("--runs", default=",".join(RUNS), help=f"of {', '.join(RUNS)}")
    parser.add_argument("--texts", type=int, default=512, help="of each generator and temperature")
    parser.add_argument("--temperatures", default="0.6,0.8,1.0,1.2")
    parser.add_argument("--order", type=int, default=5, help="of the Kneser-Ney models")
    options = parser.parse_args(arguments)
    return cli.guarded(lambda: print(report(options, overrides)))


def report(options, overrides: dict[str, str]) -> str:
    """The table, after all runs are finished."""
    names = options.runs.split(",")
    if unknown := set(names) - set(RUNS):
        raise ValueError(f"--runs {options.runs}: {sorted(unknown)} are none of {', '.join(RUNS)}")
    if options.texts < 2:
        raise ValueError(f"--texts {options.texts}: at least 2 can be compared")
    temperatures = [_temperature(part) for part in options.temperatures.split(",")]
    found: dict[str, Any] = {"texts": options.texts, "order": options.order, "runs": {}, "rows": []}
    judges = None
    for name in names:
        workdir = trained(Path(options.workdir) / name, name, overrides)
        summary = json.loads((workdir / "summary.json").read_text())
        kept = ("val_bits_per_byte", "val_loss", "num_params", "train_seconds", "final_step")
        found["runs"][name] = {key: summary[key] for key in kept}
        judges = judges or Judges.of(workdir, options)
        if not found["rows"]:
            scores = judges.scores(judges.held_out.tolist(), judges.train)
            found["rows"].append({"run": REAL, "temperature": None} | scores)
        for temperature in temperatures:
            texts = written(workdir, judges.firsts, judges.length, temperature)
            row = {"run": name, "temperature": temperature} | judges.scores(texts)
            found["rows"].append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    output.with_suffix(".md").write_text(table(found))
    draw(output.with_suffix(".png"), found)
    return table(found)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"--temperatures: {text!r} must be a number above 0")
    return value


def trained(workdir: Path, name: str, overrides: dict[str, str]) -> Path:
    """The finished run of this name."""
    import jaxlm

    if (workdir / "summary.json").exists():
        return workdir
    file, plays = RUNS[name]
    cfg = config.load(str(FAMILIES / file))
    for key, text in overrides.items():
        if key in config.all_keys(cfg):
            config.override(cfg, key, text)
        elif not any(
            key in config.all_keys(config.load(str(FAMILIES / f))) for f, _ in RUNS.values()
        ):
            config.override(cfg, key, text)  # which says what is wrong
    if not plays:
        cfg.step.pretrain_fraction, cfg.step.discriminator_fraction = 1.0, 0.0
    jaxlm.run(cfg, workdir)
    return workdir


def written(workdir: Path, firsts: list[int], length: int, temperature: float) -> list[list[int]]:
    """Texts of a run's generator, each from its first token to its end, or of `length` tokens."""
    import jaxlm
    from jaxlm.decode.sampling import Sampling
    from jaxlm.decode.types import Request

    lm, texts = jaxlm.load(workdir), []
    for start in range(0, len(firsts), 64):
        part = firsts[start : start + 64]
        request = Request(
            prompts=[[first] for first in part],
            max_tokens=length - 1,
            max_len=2 * length,
            end_ids=(lm.tokenizer.eos_id,),
            seeds=list(range(start, start + len(part))),
        )
        best = Sampling(temperature=temperature).write(lm.model, lm.params, request)
        texts += [[first, *one.tokens] for first, (one,) in zip(part, best, strict=True)]
    return texts


class Judges(NamedTuple):
    """What texts are judged by: a Kneser-Ney model of the training text, and held-out text."""

    tokenizer: Any
    model: Any
    tables: Any
    held_out: np.ndarray  # int32 [N, T], real windows
    length: int
    train: list[list[int]]  # as many windows of training text as texts are drawn
    firsts: list[int]

    @classmethod
    def of(cls, workdir: Path, options) -> Judges:
        """Of the data of a run."""
        from jaxlm.models.ngram import NGram, NGramConfig
        from jaxlm.train import assembly

        cfg = config.read(workdir / "config.json")
        task = assembly.make_task(cfg)
        tokenizer, length, (part,) = task.tokenizer, cfg.data.seq_len, task.parts
        train, val = (_stream(part, *part.span(split)) for split in ("train", "val"))
        model = NGram(
            NGramConfig(
                order=options.order, vocab_size=tokenizer.vocab_size, separator=tokenizer.eos_id
            )
        )
        tables = model.estimated(model.counted(None, train, np.ones(len(train), bool)))[0]
        windows = [_windows(stream, length, options.texts) for stream in (train, val)]
        firsts = np.resize(windows[1][:, 0], options.texts).tolist()
        return cls(tokenizer, model, tables, windows[1], length, windows[0].tolist(), firsts)

    def scores(self, texts: list[list[int]], counted: list[list[int]] = ()) -> dict[str, float]:
        """SCORES of texts as ids; of real ones those that are counted are others, or they would judge themselves."""
        from jaxlm.eval import diversity

        found = {
            "forward_perplexity": perplexity(self.model, self.tables, texts),
            "reverse_perplexity": perplexity(
                self.model, counted_on(self.model, counted or texts), self.held_out.tolist()
            ),
        }
        rows = diversity.rows([self.tokenizer.decode(ids) for ids in texts])
        return found | {row.name: row.value for row in rows if row.name in SCORES}


def _stream(part: Any, start: int, stop: int) -> np.ndarray:
    ids = np.empty(stop - start, np.int32)
    part.tokens.fill(start, ids)
    return ids


def _windows(stream: np.ndarray, length: int, count: int) -> np.ndarray:
    """Evenly spread ones without overlap, at most `count`."""
    total = len(stream) // length
    chosen = np.arange(min(count, total)) * total // min(count, total)
    return stream[: total * length].reshape(total, length)[chosen]


def counted_on(model: Any, texts: list[list[int]]) -> Any:
    """The tables of texts, which do not go on from one to the next."""
    separator = model.config.separator
    ids = np.concatenate([[separator, *text] for text in texts])
    return model.estimated(model.counted(None, ids, ids != separator))[0]


def perplexity(model: Any, tables: Any, texts: list[list[int]]) -> float:
    """Of every token but each text's first one, behind those before it in the text."""
    import jax

    width = max(map(len, texts))
    ids, weights = np.zeros((len(texts), width), np.int32), np.zeros((len(texts), width - 1))
    for row, text in enumerate(texts):
        ids[row, : len(text)], weights[row, : len(text) - 1] = text, 1.0
    score = jax.jit(
        lambda tables, ids: model.apply({"params": tables}, ids[:, :-1]).token_nll(ids[:, 1:])
    )
    total = 0.0
    for start in range(0, len(ids), 64):
        part = np.resize(
            ids[start : start + 64], (64, width)
        )  # one program; what is repeated weighs 0
        nll = np.asarray(score(tables, part), np.float64)[: len(ids) - start]
        total += float((nll * weights[start : start + 64]).sum())
    return math.exp(total / weights.sum())


def table(found: dict[str, Any]) -> str:
    """What was found, in Markdown."""
    lines = [
        "| run | steps | bits per byte as a language model | training seconds |",
        "|---|---|---|---|",
    ]
    for name, run in found["runs"].items():
        cells = (
            name,
            run["final_step"],
            f"{run['val_bits_per_byte']:.3f}",
            f"{run['train_seconds']:.0f}",
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| run | temperature | forward perplexity | reverse perplexity | distinct-1 | distinct-2 | self-BLEU |"]  # fmt: skip
    lines.append("|---|---|---|---|---|---|---|")
    for row in found["rows"]:
        warm = "" if row["temperature"] is None else f"{row['temperature']:g}"
        numbers = [f"{row[name]:.3f}" for name in SCORES]
        lines.append("| " + " | ".join([row["run"], warm, *numbers]) + " |")
    lines.append(
        f"\n{found['texts']} texts each; perplexities are a token's, under Kneser-Ney models of order {found['order']}; distinct-n and "
        "self-BLEU are of words."
    )
    return "\n".join(lines) + "\n"


def draw(path: Path, found: dict[str, Any]) -> None:
    """Forward perplexity against reverse perplexity and against self-BLEU, a line of temperatures for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name, label in zip(
        panels,
        ("reverse_perplexity", "self_bleu"),
        ("reverse perplexity", "self-BLEU"),
        strict=True,
    ):
        for run in [REAL, *found["runs"]]:
            rows = [row for row in found["rows"] if row["run"] == run]
            points = [row["forward_perplexity"] for row in rows], [row[name] for row in rows]
            axes.plot(*points, "k*" if run == REAL else "o-", label=run, markersize=9 if run == REAL else 4)  # fmt: skip
            for row, x, y in zip(rows, *points, strict=True):
                if row["temperature"] is not None:
                    axes.annotate(f"{row['temperature']:g}", (x, y), fontsize=7)
        axes.set(xlabel="forward perplexity (lower: looks real)", ylabel=f"{label} (lower: varied)")
        axes.grid(alpha=0.25)
    panels[0].legend(fontsize=8)
    with path.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)


if __name__ == "__main__":
    sys.exit(main())
