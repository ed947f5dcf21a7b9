"""How well a language model predicts text: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row


class Perplexity:
    """Every weighed target of a split once; of plain text that is every token, in windows of `seq_len` without overlap,
    context reset at each window. Of masked text it is the chosen tokens, of pairs and spans what the decoder writes.

    loss = sum nll / tokens (nats a scored token), perplexity = exp(loss), bits_per_byte = sum nll / (ln 2 * bytes) with the
    UTF-8 bytes that the scored tokens stand for (special tokens: none). Standard errors are those of a ratio over windows (Cochran 1977,
    Sampling Techniques, section 6.4), so that tokens of one window need not be independent.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError where the targets are classes, not text."""
        if info.labels:
            raise ValueError(
                f'evaluators: "perplexity" scores text, and the targets of this data are {len(info.labels)} classes: '
                'set evaluators to ("accuracy",)'
            )
        self.token_bytes = (
            info.tokenizer.token_bytes() if info.tokenizer else np.ones(info.vocab_size)
        )
        self.seq_len, self.objective = seq_len, objective
        self.tokenizer = f"|tokenizer={info.tokenizer.name}" if info.tokenizer else ""

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """nll_BT, nats."""
        return {"nll": output.token_nll(batch["targets"])}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> list[Row]:
        """Rows `loss`, `perplexity`, `bits_per_byte`.

        Raises:
          ValueError: the data holds no weighed token.
        """
        nll, tokens, num_bytes, text = [], [], [], ""
        for batch in data:
            text = text or self._signature(batch)
            weights = np.asarray(batch["weights"], np.float64)
            values = np.asarray(predict(batch)["nll"], np.float64)
            nll.append((values * weights).sum(1))
            tokens.append(weights.sum(1))
            num_bytes.append((self.token_bytes[batch["targets"]] * weights).sum(1))
        if not tokens or not np.concatenate(tokens).sum():
            raise ValueError("evaluation: the split holds no token to score")
        nll, tokens, num_bytes = (np.concatenate(part) for part in (nll, tokens, num_bytes))
        used = tokens > 0
        nll, tokens, num_bytes = nll[used], tokens[used], num_bytes[used]
        loss, loss_error = ratio(nll, tokens)
        perplexity = math.exp(min(loss, 700.0))
        rows = [
            Row(
                "loss",
                loss,
                "nats/token",
                loss_error,
                f"{text}|tokens={int(tokens.sum())}",
            ),
            Row("perplexity", perplexity, "per token", perplexity * loss_error, text),
        ]
        if num_bytes.sum():
            bits, bits_error = ratio(nll / math.log(2), num_bytes)
            signature = f"{text}|bytes={int(num_bytes.sum())}"
            rows.append(Row("bits_per_byte", bits, "bits/byte", bits_error, signature))
        return rows

    def _signature(self, batch: Batch) -> str:
        """Which targets were scored, and with what context."""
        if self.objective != "causal_lm":
            how = f"objective={self.objective}|length={self.seq_len}"
        elif "segment_ids" in batch:
            how = f"documents, packed in windows={self.seq_len}"
        else:
            how = f"windows={self.seq_len}|stride={self.seq_len}"
        return how + self.tokenizer


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """sum(numerators) / sum(denominators) and its standard error over units; nan for a single unit."""
    value = numerators.sum() / denominators.sum()
    count = len(numerators)
    if count < 2:
        return float(value), math.nan
    residual = numerators - value * denominators
    variance = (residual**2).sum() / (count - 1) / count / denominators.mean() ** 2
    return float(value), math.sqrt(variance)
