"""How often the better of two texts is found, by a language model's probabilities or by a reward model's numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import make_row

CHOSEN, REJECTED = 0, 1
REWARD = "reward"
"""The objective of models whose value head is asked."""


class Preference:
    """Pairs in rows (data.kind="preferences"): the better text is segment 1, the worse one segment 2.

    `accuracy` is the share of pairs whose better text scores more (a tie counts half), `margin` the mean difference of scores.
    A score is the completion's log-probability, in nats; of a reward model its number at the last token. For the former there is
    also `accuracy_per_token`, by log-probability divided by tokens. `length_only` is the accuracy of the better of two rules:
    always the text with more tokens, always the one with fewer (chosen on the scored split itself, so in its favour). Whether
    a model finds its way by its reference, as DPO's reward does, is in the log of training.
    Standard errors are over pairs.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Args: seq_len is not used: every row of the split is scored once."""
        self.by_reward = objective == REWARD
        score = "value at the last token" if self.by_reward else "log-probability of the completion"
        self.signature = f"score={score}"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """score_BS, float32 [B, 2]."""
        numbers_S = jnp.arange(1, 3, dtype=jnp.int32)
        inside_BST = batch["segment_ids"][:, None, :] == numbers_S[None, :, None]
        if not self.by_reward:
            scores_BT = -output.token_nll(batch["targets"]) * batch["weights"]
            return {"scores": jnp.sum(jnp.where(inside_BST, scores_BT[:, None, :], 0.0), axis=-1)}
        places_T = jnp.arange(inside_BST.shape[-1], dtype=jnp.int32)
        last_BS = jnp.max(jnp.where(inside_BST, places_T[None, None, :], 0), axis=-1)
        return {"scores": jnp.take_along_axis(output.aux["value_BT"], last_BS, axis=1)}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """Rows `accuracy`, `accuracy_per_token`, `margin`, `length_only`; of each pair its margin.

        Raises:
          ValueError: no pair.
        """
        ids, scores, sizes, seen = [], [], [], 0
        for batch in data:
            counts = np.stack(
                [((batch["segment_ids"] == s) * batch["weights"]).sum(1) for s in (1, 2)], 1
            )
            used = (counts > 0).all(1)
            scores.append(np.asarray(predict(batch)["scores"], np.float64)[used])
            sizes.append(counts[used])
            numbers = batch["id"] if "id" in batch else np.arange(seen, seen + len(counts))
            ids += np.asarray(numbers)[used].tolist()
            seen += len(counts)
        if not ids:
            raise ValueError(
                'evaluators: "preference" compares two texts, and no line of this split has both: set evaluators to ()'
            )
        return self._scores(np.concatenate(scores), np.concatenate(sizes), ids)

    def _scores(self, scores_N2: np.ndarray, sizes_N2: np.ndarray, ids: list[int]) -> Scores:
        margins = scores_N2[:, CHOSEN] - scores_N2[:, REJECTED]
        signature = f"{self.signature}|pairs={len(ids)}"

        def row(name: str, values: np.ndarray, unit: str = "fraction", about: str = "") -> Row:
            return make_row(
                name,
                np.stack([values, np.ones(len(values))], 1),
                unit=unit,
                finish="ratio",
                signature=signature + about,
                higher_is_better=True,
            )

        longer = found(sizes_N2[:, CHOSEN] - sizes_N2[:, REJECTED])
        rule, by_length = max(
            ("more", longer), ("fewer", 1 - longer), key=lambda one: one[1].mean()
        )
        rows = [
            row("accuracy", found(margins)),
            row("margin", margins, "reward" if self.by_reward else "nats"),
            row("length_only", by_length, about=f"|always the text with {rule} tokens"),
        ]
        if not self.by_reward:
            means = scores_N2 / sizes_N2
            rows.insert(1, row("accuracy_per_token", found(means[:, CHOSEN] - means[:, REJECTED])))
        examples = [
            {"id": number, "score": margin}
            for number, margin in zip(ids, margins.tolist(), strict=True)
        ]
        return Scores(rows, examples)


def found(margins: np.ndarray) -> np.ndarray:
    """1 where the better text was found, 1/2 at a tie, float64 [N]."""
    return (margins > 0) + 0.5 * (margins == 0)
