"""Rules that judge a completion, and the share of right answers that a model writes to prompts."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.outputs import NeuralOutput
from jaxlm.eval import rewards
from jaxlm.eval.exact_match import ExactMatch, NumberMatch
from jaxlm.eval.predict import writing


@pytest.mark.parametrize(
    ("rule", "completion", "reference", "expected"),
    [
        (rewards.exact_match, " 85\n", "85", 1),
        (rewards.exact_match, "-5", "5", 0),
        (rewards.exact_match, "Paris", "paris", 0),
        (rewards.number_match, "17 and 68, so 1,200.", "1200", 1),
        (rewards.number_match, "It is 5.0", "5", 1),
        (rewards.number_match, "It is -5", "5", 0),
        (rewards.number_match, "I don't know", "5", 0),
        (rewards.regex_match, " yes ", "yes|no", 1),
        (rewards.regex_match, "yes indeed", "yes|no", 0),
    ],
)
def test_rules(rule, completion, reference, expected):
    assert rule("", completion, reference) == expected


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(
        ValueError, match=r"regex_match: '\(yes' is no regular expression: missing \)"
    ):
        rewards.regex_match("", "yes", "(yes")


class Info:
    labels = ()

    class tokenizer:
        name = "bytes"


@pytest.mark.parametrize(("kind", "expected"), [(ExactMatch, 0.25), (NumberMatch, 0.5)])
def test_a_share_and_its_error(kind, expected):
    data = [
        {"id": np.array([0, 1, 2, 3, -1]), "input": ["1+1="] * 5, "reference": ["2"] * 4 + [""]}
    ]
    texts = {"texts": ["2", "3", "so 2", "", "2"]}
    scores = kind(Info, 8, "grpo").run(lambda batch: texts, data)
    (row,) = scores.rows
    assert (row.name, row.value, row.higher_is_better) == (kind.name, expected, True)
    # The sample deviation of four answers, over the square root of four.
    np.testing.assert_allclose(
        row.stderr, np.std([1] * round(4 * expected) + [0] * round(4 - 4 * expected), ddof=1) / 2
    )
    assert [one["score"] for one in scores.examples][0] == 1
    assert "temperature=0.0" in row.signature


def test_of_several_accepted_answers_the_best_counts():
    data = [{"id": np.array([0, 1]), "reference": [["Ulan Bator", "Ulaanbaatar"], "Rome"]}]
    texts = {"texts": ["Ulaanbaatar", "Ulaanbaatar"]}
    assert ExactMatch(Info, 8, "grpo").run(lambda batch: texts, data).rows[0].value == 0.5


class Successor(nn.Module):
    """Writes 1 after 0, 2 after 1, and so on; 3 ends a text."""

    inputs, optional_inputs, direction = ("tokens",), (), "causal"

    def init_cache(self, params, batch_size, max_len):
        return {"lengths": jnp.zeros(batch_size, jnp.int32)}

    def extend(self, params, cache, tokens_BT, lengths_B):
        logits = jax.nn.one_hot((tokens_BT + 1) % 5, 5) * 9.0
        return NeuralOutput(logits, jnp.eye(5), {}, 5), cache


class Digits:
    """Ids 0 to 4, of which 3 ends a text; as words, before which stands a space unless a text begins with them."""

    eos_id = 3

    def spellings(self, begins):
        space = b"" if begins else b" "
        return [space + b"0", space + b"1", space + b"2", b"", space + b"4"]


def test_a_causal_model_answers_prompts_of_any_length():
    """Prompts 0 and 1 0 4 are gone on with to the 3; 4 4 4 4 has room for two tokens of a row of six; -1 is filling."""
    tokens = np.array([[0, 9, 0, 0, 0, 0], [1, 0, 4, 9, 0, 0], [4, 4, 4, 4, 9, 0], [0] * 6])
    weights = np.array([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0] * 6])
    targets = np.array([[9, 3, 0, 0, 0, 0], [0, 0, 9, 3, 0, 0], [0, 0, 0, 9, 3, 0], [0] * 6])
    batch = {
        "tokens": tokens,
        "targets": targets,
        "weights": weights,
        "id": np.array([0, 1, 2, -1]),
    }
    predict = writing(ExactMatch.writes, Successor(), Digits())
    assert predict({}, batch)["texts"] == [" 1 2", " 0 1 2", " 0 1", ""]
