"""How well a language model predicts text: loss, perplexity and bits per byte."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row


class Perplexity:
    """Each token of a split once, in windows of `seq_len` without overlap, context reset at each window.

    loss = sum nll / tokens (nats a token), perplexity = exp(loss), bits_per_byte = sum nll / (ln 2 * bytes) with the
    UTF-8 bytes that the scored tokens stand for. Standard errors are those of a ratio over windows (Cochran 1977,
    Sampling Techniques, section 6.4), so that tokens of one window need not be independent.
    """

    def __init__(self, info: TaskInfo, seq_len: int):
        self.token_bytes = (
            info.tokenizer.token_bytes() if info.tokenizer else np.ones(info.vocab_size)
        )
        self.signature = f"windows={seq_len}|stride={seq_len}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """nll_BT, nats."""
        return {"nll": output.token_nll(batch["targets"])}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> list[Row]:
        """Rows `loss`, `perplexity`, `bits_per_byte`.

        Raises:
          ValueError: the data holds no weighed token.
        """
        nll, tokens, num_bytes = [], [], []
        for batch in data:
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
                f"{self.signature}|tokens={int(tokens.sum())}",
            ),
            Row("perplexity", perplexity, "per token", perplexity * loss_error, self.signature),
        ]
        if num_bytes.sum():
            bits, bits_error = ratio(nll / math.log(2), num_bytes)
            signature = f"{self.signature}|bytes={int(num_bytes.sum())}"
            rows.append(Row("bits_per_byte", bits, "bits/byte", bits_error, signature))
        return rows


def ratio(numerators: np.ndarray, denominators: np.ndarray) -> tuple[float, float]:
    """sum(numerators) / sum(denominators) and its standard error over units; nan for a single unit."""
    value = numerators.sum() / denominators.sum()
    count = len(numerators)
    if count < 2:
        return float(value), math.nan
    residual = numerators - value * denominators
    variance = (residual**2).sum() / (count - 1) / count / denominators.mean() ** 2
    return float(value), math.sqrt(variance)
