"""How often the better text is found: four pairs by hand, ties, the rule of length, rows that are no pairs."""

import numpy as np
import pytest

from jaxlm.core.types import TaskInfo
from jaxlm.eval.preference import Preference

SEGMENTS = np.array(
    [[1, 1, 2, 2, 2], [1, 1, 1, 2, 0], [1, 1, 2, 2, 2], [1, 2, 2, 0, 0], [1, 1, 1, 0, 0]]
)
BATCH = {
    "segment_ids": SEGMENTS,
    "weights": (SEGMENTS > 0).astype(np.float32),
    "targets": np.zeros((5, 5), np.int32),
    "id": np.array([7, 3, 4, 5, 6]),
}
SCORES = np.array([[-1.0, -3.0], [-6.0, -3.0], [-4.0, -4.0], [-1.0, -1.5], [-9.0, 0.0]])


def scores(objective="dpo", batch=BATCH):
    evaluator = Preference(TaskInfo(3, {}), 5, objective)
    found = evaluator.run(lambda _: {"scores": SCORES}, [batch])
    return {row.name: row for row in found.rows}, found.examples


def test_by_hand():
    """Margins 2, -3, 0, 0.5 and a row with one text; tokens 2:3, 3:1, 2:3, 1:2; a token -0.5:-1, -2:-3, -2:-4/3, -1:-0.75."""
    rows, examples = scores()
    assert rows["accuracy"].value == 2.5 / 4 and rows["accuracy_per_token"].value == 2 / 4
    assert rows["margin"].value == -0.125 and rows["margin"].unit == "nats"
    assert rows["length_only"].value == 3 / 4
    assert rows["length_only"].signature.endswith("pairs=4|always the text with fewer tokens")
    assert rows["accuracy"].stderr == pytest.approx(np.std([1, 0, 0.5, 1], ddof=1) / 2)
    assert examples == [
        {"id": i, "score": s} for i, s in zip([7, 3, 4, 5], [2, -3, 0, 0.5], strict=True)
    ]


def test_of_a_reward_model():
    rows, _ = scores("reward")
    assert set(rows) == {"accuracy", "margin", "length_only"} and rows["margin"].unit == "reward"


def test_rows_without_pairs_are_refused():
    with pytest.raises(ValueError, match="no line of this split has both"):
        scores(batch=BATCH | {"weights": BATCH["weights"] * (SEGMENTS == 1)})
