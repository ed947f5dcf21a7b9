"""The share of right answers among those that a model writes to held-out prompts, by a rule of eval/rewards.py.

Not for answers that count by their words (answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from jaxlm.eval import Row, rewards
from jaxlm.eval.generation import Writes, accepted, check_texts
from jaxlm.eval.metric import make_row


class ExactMatch(Writes):
    """Answers that are the data's, to the letter."""

    name: ClassVar[str] = "exact_match"
    main: ClassVar[str] = "exact_match"
    rule: ClassVar[Callable[[str, str, str], float]] = staticmethod(rewards.exact_match)

    def rows(self, predictions: list[str], references: list[str]) -> list[Row]:
        """A row of this name, a fraction.

        Raises:
          ValueError: no example.
        """
        check_texts(predictions, references)
        pairs = zip(predictions, references, strict=True)
        right = np.array(
            [max(self.rule("", text, one) for one in accepted(wanted)) for text, wanted in pairs]
        )
        return [
            make_row(
                self.name,
                np.stack([right, np.ones_like(right)], 1),
                unit="fraction",
                finish="ratio",
                signature=f"{self.rule.__name__}|white space around it stripped",
                higher_is_better=True,
            )
        ]


class NumberMatch(ExactMatch):
    """Answers whose last number is the data's."""

    name: ClassVar[str] = "number_match"
    main: ClassVar[str] = "number_match"
    rule: ClassVar[Callable[[str, str, str], float]] = staticmethod(rewards.number_match)
