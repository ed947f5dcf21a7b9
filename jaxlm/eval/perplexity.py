"""How well a language model predicts text: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Scores
from jaxlm.eval.metric import make_row

NEXT_TOKEN = ("causal_lm", "multi_token", "elbo", "adversarial")
"""Objectives of which the next token is scored."""
BOUNDS = {"elbo": "elbo"}
"""Objective -> the upper bound that its scores are of, where the probability of a text can't be computed."""


class Perplexity:
    """Every weighed target of a split once; of plain text that is every token, in windows of `seq_len` without overlap,
    context reset at each window, or of texts that have rows of their own. Of masked text it is the chosen tokens, of fill-in-the-middle the middles, of pairs and spans what the decoder writes.

    loss = sum nll / tokens (nats a scored token), perplexity = exp(loss), bits_per_byte = sum nll / (ln 2 * bytes) with the
    UTF-8 bytes that the scored tokens stand for (special tokens: none). Standard errors are those of a ratio over windows (Cochran 1977,
    Sampling Techniques, section 6.4), so that tokens of one window need not be independent.
    """

    needs_probabilities: ClassVar[bool] = True

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are classes, not text."""
        if info.labels:
            raise ValueError(
                f'evaluators: "perplexity" scores text, and the targets of this data are {len(info.labels)} classes: '
                'set evaluators to ("accuracy",)'
            )
        if info.num_outputs:
            raise ValueError(
                'evaluators: "perplexity" scores text, and the targets of this data are none: name the evaluator of its '
                'kind, such as "spans", "choices" or "regression"'
            )
        self.token_bytes = (
            info.tokenizer.token_bytes() if info.tokenizer else np.ones(info.vocab_size)
        )
        self.seq_len, self.objective, self.whole_texts = seq_len, objective, info.whole_texts
        self.tokenizer = f"|tokenizer={info.tokenizer.name}" if info.tokenizer else ""

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """nll_BT, nats."""
        return {"nll": output.token_nll(batch["targets"])}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `loss`, `perplexity`, `bits_per_byte`; of each example its mean log-likelihood.

        Raises:
          ValueError: the data holds no weighed token.
        """
        parts, numbers, text, seen = [], [], "", 0
        for batch in data:
            text = text or self._signature(batch)
            weights = np.asarray(batch["weights"], np.float64)
            nll = np.asarray(predict(batch)["nll"], np.float64)
            sizes = self.token_bytes[batch["targets"]]
            parts.append(
                np.stack([(v * weights).sum(1) for v in (nll, np.ones_like(nll), sizes)], 1)
            )
            numbers.append(batch["id"] if "id" in batch else np.arange(seen, seen + len(weights)))
            seen += len(weights)
        sums = np.concatenate(parts or [np.zeros((0, 3))])
        used = sums[:, 1] > 0
        if not used.any():
            raise ValueError("evaluation: the split holds no token to score")
        nll, tokens, num_bytes = sums[used].T
        per_token = np.stack([nll, tokens], 1)
        rows = [
            make_row(
                "loss",
                per_token,
                unit="nats/token",
                finish="ratio",
                signature=f"{text}|tokens={int(tokens.sum())}",
            ),
            make_row("perplexity", per_token, unit="per token", finish="exp_ratio", signature=text),
        ]
        if num_bytes.sum():
            bits = np.stack([nll / math.log(2), num_bytes], 1)
            about = f"{text}|bytes={int(num_bytes.sum())}"
            rows.append(
                make_row("bits_per_byte", bits, unit="bits/byte", finish="ratio", signature=about)
            )
        means = zip(np.concatenate(numbers)[used].tolist(), (-nll / tokens).tolist(), strict=True)
        return Scores(rows, [{"id": number, "score": mean} for number, mean in means])

    def _signature(self, batch: Batch) -> str:
        """Which targets were scored, and with what context."""
        if self.objective not in NEXT_TOKEN:
            how = f"objective={self.objective}|length={self.seq_len}"
        elif self.whole_texts:
            how = f"texts<={self.seq_len} tokens"
        elif "segment_ids" in batch:
            how = f"documents, packed in windows={self.seq_len}"
        elif not batch["weights"][0, 0]:  # of a plain window every token is a target
            how = f"parts of windows={self.seq_len}"
        else:
            how = f"windows={self.seq_len}|stride={self.seq_len}"
        bound = f"|bound={BOUNDS[self.objective]}" if self.objective in BOUNDS else ""
        return how + self.tokenizer + bound
