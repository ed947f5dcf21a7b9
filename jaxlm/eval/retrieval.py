"""How well vectors find what belongs to a text, among what belongs to all texts of a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jaxlm.core import sentences
from jaxlm.core.types import Array, Batch, ModelOutput, TaskInfo
from jaxlm.eval import Scores, ranking

_ROWS = 1024  # anchors whose similarities are held at once


class Retrieval:
    """Each anchor's own positive among all different positives of the split, by cosine: `ranking.rows`.

    A positive that is the anchor's own text, and not what is looked for, is no candidate. Vectors are those of `lm.embed`: means of the tokens' states.
    """

    def __init__(self, info: TaskInfo, seq_len: int, objective: str):
        """Raises ValueError for data of another form."""
        if objective != "contrastive":
            raise ValueError(
                'evaluators: "retrieval" scores texts that belong together (objective.kind="contrastive"), not '
                f'objective.kind="{objective}"'
            )
        self.signature = "cosine of mean vectors"
        if info.tokenizer:
            self.signature += f"|tokenizer={info.tokenizer.name}"

    def outputs(self, output: ModelOutput, batch: Batch) -> dict[str, Array]:
        """vectors_BCD of anchor and positive."""
        vectors_BCD = sentences.vectors(output.hidden, batch["segment_ids"], 2)
        return {"vectors": vectors_BCD}

    def run(self, predict: Callable[[Batch], dict[str, Any]], data: Iterable[Batch]) -> Scores:
        """The rows, and of each anchor what was found first; its score is the reciprocal rank.

        Raises:
          ValueError: nothing to rank, or texts that belong to themselves.
        """
        vectors, ids, anchors, positives = [], [], [], []
        for batch in data:
            used = batch["id"] >= 0
            vectors.append(predict(batch)["vectors"][used])
            ids += batch["id"][used].tolist()
            anchors += batch["input"][used].tolist()
            positives += batch["reference"][used].tolist()
        if anchors == positives:
            raise ValueError(
                'evaluators: "retrieval" has nothing to find where each text belongs to itself (data.positive_column=""): '
                "leave it out, or name data.val_path and columns of pairs"
            )
        vectors_NCD = np.concatenate(vectors)
        numbers: dict[str, int] = {}
        own_N = np.array([numbers.setdefault(text, len(numbers)) for text in positives])
        firsts = np.unique(own_N, return_index=True)[1]
        selves_N = ranking.selves(anchors, numbers, own_N)
        ranks_N, best_N = _ranks(vectors_NCD[:, 0], vectors_NCD[firsts, 1], own_N, selves_N)
        signature = f"{self.signature}|candidates={len(firsts)}{ranking.left_out(selves_N)}"
        rows = ranking.rows(ranks_N, signature)
        texts = list(numbers)
        examples = [
            {
                "id": ids[row],
                "input": anchors[row],
                "prediction": texts[best_N[row]],
                "reference": positives[row],
                "score": score,
            }
            for row, score in enumerate(ranking.reciprocal(ranks_N).tolist())
        ]
        return Scores(rows, examples)


def _ranks(
    anchors_ND: np.ndarray, candidates_MD: np.ndarray, own_N: np.ndarray, selves_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of each anchor's own candidate, from 1 (of equal ones the last), and the number of the first one."""
    ranks, best = [], []
    for start in range(0, len(anchors_ND), _ROWS):
        similar_NM = anchors_ND[start : start + _ROWS] @ candidates_MD.T
        selves = selves_N[start : start + _ROWS]
        similar_NM[np.flatnonzero(selves >= 0), selves[selves >= 0]] = -np.inf
        own_N1 = np.take_along_axis(similar_NM, own_N[start : start + _ROWS, None], 1)
        ranks.append((similar_NM >= own_N1).sum(1))
        best.append(similar_NM.argmax(1))
    return np.concatenate(ranks), np.concatenate(best)
