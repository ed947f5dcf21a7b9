"""Texts between two texts, by a model with a latent vector for each (experiments/families/vae.py).

python -m jaxlm.interpolate --workdir runs/vae --first "He was silent." --second "Where is the king?" --num_points 7
python -m jaxlm.interpolate --workdir runs/vae --first TEXT --second TEXT --spherical --prompt "\\n"

Both are encoded to their posteriors' means; under each point between them the likeliest text is written, token by token. Texts
under points of the prior: `python -m jaxlm.generate`, a --seed each. In a terminal lines are shown; else one JSON object each.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from jaxlm import cli

LINES = "lines"
"""The data.kind whose texts begin and end with <eos>; windows of other data begin anywhere."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    options = _parser().parse_args(argv)
    return cli.guarded(lambda: _interpolate(options), logs=sys.stderr)


def _parser() -> cli.Parser:
    parser = cli.Parser("jaxlm.interpolate", "Texts between two texts.")
    parser.add_argument("--workdir", required=True, metavar="DIR", help="a run of a VAE")
    parser.add_argument("--best", action="store_true", help="the best checkpoint, not the newest")
    parser.add_argument("--first", required=True, metavar="TEXT")
    parser.add_argument("--second", required=True, metavar="TEXT")
    parser.add_argument("--num_points", type=int, default=7, help="ends included; default 7")
    parser.add_argument("--spherical", action="store_true", help="along an arc, not along a line")
    parser.add_argument("--max_tokens", type=int, help="of each; default: the texts of its data")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="what each begins with; default <eos> where the data's texts do, else a line break",
    )
    return parser


def _interpolate(options: argparse.Namespace) -> None:
    from jaxlm import api  # after the arguments: their mistakes show at once
    from jaxlm.decode import interpolation
    from jaxlm.decode.stopping import text_of

    lm = api.load(options.workdir, best=options.best)
    if getattr(lm.model, "direction", "") != "latent":
        raise ValueError(
            f"--workdir {options.workdir}: {type(lm.model).__name__} has no latent vector of a text; "
            'model.kind="vae" has'
        )
    ends_Z = [_mean(lm, getattr(options, name), name) for name in ("first", "second")]
    points_NZ = interpolation.between(*ends_Z, options.num_points, options.spherical)
    prompt = _prompt(lm, options.prompt)
    max_tokens = options.max_tokens or lm.max_len - len(prompt)
    bounds = {"max_tokens": max_tokens, "max_len": lm.max_len + 1, "end_ids": lm.ends}
    written = interpolation.write(lm.model, lm.params, points_NZ, prompt, **bounds)
    for number, one in enumerate(written):
        place = round(number / (len(written) - 1), 4)
        text = text_of(lm.tokenizer, one.tokens, begins=False)
        if sys.stdout.isatty():
            print(f"{place:.2f}  {text!r}")
        else:
            row = {"place": place, "text": text, "score": one.score}
            print(json.dumps(row, ensure_ascii=False), flush=True)


def _mean(lm: Any, text: str, name: str) -> Any:
    """The mean of a text's posterior, float32 [Z]."""
    import jax
    import numpy as np

    ids = lm.tokenizer.encode(text).tolist()
    if not ids:
        raise ValueError(f"--{name} is empty: expected a text")
    ids += [lm.tokenizer.eos_id] * (lm.config.data.kind == LINES)
    if len(ids) > lm.max_len:
        raise ValueError(f"--{name} has {len(ids)} tokens, and the model's texts {lm.max_len}")
    tokens_BT = np.array([ids], np.int32)
    return jax.device_get(
        lm.model.apply({"params": lm.params}, tokens_BT, tokens_BT).aux["mean_BZ"][0]
    )


def _prompt(lm: Any, given: str | None) -> list[int]:
    """Ids that every text begins with."""
    if given is None and lm.config.data.kind == LINES:
        return [lm.tokenizer.eos_id]
    ids = lm.tokenizer.encode("\n" if given is None else given).tolist()
    if not ids:
        raise ValueError("--prompt is empty: expected a text that the others begin with")
    return ids


if __name__ == "__main__":
    sys.exit(main())
