"""What the evaluation harness says by name, in ours: a task's `generation_kwargs`, and the model's own arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jaxlm.registry import nearest

ARGUMENTS = (
    "path", "batch_size", "max_length", "best", "prefix_token_id", "add_bos_token", "seed", "device",
)  # fmt: skip
BEAM = ("num_beams", "length_penalty", "early_stopping")
DRAW = (
    "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
"""What `generation_kwargs` may hold besides until, do_sample and max_gen_toks with its other names."""
UNSAID = "cuda:0"  # the harness's device where its user names none
MAX_GEN_TOKS = 256  # of tasks that do not say


class Writing:
    """A task's `generation_kwargs` as arguments of `LanguageModel.write`.

    Raises:
      ValueError: one that is not known, or numbers that do not go together.
    """

    def __init__(self, kwargs: dict[str, Any], max_length: int, backend: str):
        from lm_eval.models.utils import normalize_gen_kwargs

        normal = dict(normalize_gen_kwargs(kwargs, MAX_GEN_TOKS))
        self.draws = normal.pop("do_sample")
        self.stop = [one for one in normal.pop("until") if one]
        self.max_tokens = normal.pop("max_gen_toks")
        self.method = "beam" if normal.get("num_beams", 1) > 1 else "sample"
        self.settings = {"temperature": 0.0, "num_beams": 1} | normal
        del self.settings["temperature" if self.method == "beam" else "num_beams"]
        self._check(BEAM if self.method == "beam" else DRAW)
        if self.draws and (self.method == "beam" or not self.settings["temperature"]):
            raise ValueError("do_sample=True needs a temperature above 0, and no num_beams")
        self.room = max_length - (self.max_tokens if backend == "causal" else 0)
        if self.room < 1:
            raise ValueError(
                f"max_gen_toks={self.max_tokens} leaves no room for a prompt in max_length={max_length}"
            )

    def _check(self, names: tuple[str, ...]) -> None:
        known = ("until", "do_sample", "max_gen_toks", "num_beams", *names)
        for name in self.settings:
            if name not in known:
                raise ValueError(
                    f"generation_kwargs: {name} is not known{nearest(name, {*known, *BEAM})}; accepted: "
                    f"{', '.join(dict.fromkeys(known))}"
                )


def check_arguments(
    path: str, batch_size: Any, device: Any, max_batch_size: Any, unknown: Mapping[str, Any]
) -> None:
    """Raise ValueError for arguments of the model that it does not take, or not so."""
    for name in unknown:
        raise ValueError(
            f"model_args: {name} is not known{nearest(name, ARGUMENTS)}; accepted: {', '.join(ARGUMENTS)}"
        )
    if not path:
        raise ValueError("model_args: path=DIR is missing: a run, a Hugging Face folder or a .gguf")
    if max_batch_size is not None or not str(batch_size).isdigit() or int(batch_size) < 1:
        raise ValueError(
            f"batch_size={batch_size}, max_batch_size={max_batch_size}: say one number, such as batch_size=8"
        )
    running = jax.default_backend()
    if device not in (None, UNSAID, running):
        raise ValueError(f"device={device}: this process runs on {running}; JAX_PLATFORMS chooses")
