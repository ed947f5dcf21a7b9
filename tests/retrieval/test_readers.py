"""Answers from passages, and the characters that they cite."""

import types
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlm.core.outputs import NeuralOutput
from jaxlm.data import special_tokens, tokenizers
from jaxlm.retrieval import readers
from jaxlm.retrieval.index import Hit
from jaxlm.retrieval.passages import Passage


def hit(rank, text, start=0):
    passage = Passage(f"p{rank}", f"file{rank}", "", start, start + len(text), text)
    return Hit(rank, 1.0, passage)


HITS = [hit(1, "Cats sleep a lot.", 100), hit(2, "The dog is called Rex.", 40)]


class Chat:
    """A chat model that says one thing, and whose prompts have a token a character."""

    config = types.SimpleNamespace(objective=types.SimpleNamespace(kind="causal_lm"))
    chat_template = "some"

    def __init__(self, says, max_len=2000):
        self.says, self.max_len, self.asked = says, max_len, []

    def chat_ids(self, messages):
        return [ord(one) for message in messages for one in message["content"]]

    def generate(self, prompts, **options):
        self.asked += ["".join(map(chr, prompt)) for prompt in prompts]
        return [self.says]


def test_passages_that_a_chat_model_names_are_cited():
    lm = Chat(" He is called Rex [2]. ")
    found = readers.read(lm, "What is the dog's name?", HITS)
    assert (found.text, found.cited_by) == ("He is called Rex [2].", "model")
    assert found.citations == (
        readers.Citation("p2", "file2", "", 40, 62, "The dog is called Rex."),
    )
    assert lm.asked[0].endswith(
        "[1] Cats sleep a lot.\n\n[2] The dog is called Rex.\n\nQuestion: What is the dog's name?"
    )


def test_where_it_names_none_the_passage_with_most_of_its_words_is():
    found = readers.read(Chat("The dog: Rex! [7]"), "Who?", HITS)
    assert found.cited_by == "words" and [one.passage for one in found.citations] == ["p2"]
    assert readers.read(Chat("Unknown"), "Who?", HITS)[2:] == ((), "")


def test_without_a_passage_there_is_no_answer(caplog):
    lm = Chat("Paris", max_len=10)
    for hits in ([], HITS):
        assert readers.read(lm, "Who?", hits) == readers.Answer("Who?", "", (), "")
    assert not lm.asked and "0 of 2 passages fit into the model: Who?" in caplog.text


def test_passages_that_do_not_fit_are_left_out_from_the_last_one(caplog):
    room = len(readers.SYSTEM) + len("[1] Cats sleep a lot.\n\nQuestion: Who?")
    lm = Chat("Cats", max_len=room + 64)
    assert [one.passage for one in readers.read(lm, "Who?", HITS).citations] == ["p1"]
    assert "[2]" not in lm.asked[0].removeprefix(readers.SYSTEM)
    assert "1 of 2 passages fit into the model: Who?" in caplog.text


class Points(nn.Module):
    """Finds an answer between capital letters: it begins at an X and ends at a Y, else there is none."""

    inputs: ClassVar[tuple[str, ...]] = ("tokens",)

    @nn.compact
    def __call__(self, tokens, segment_ids, token_types):
        logits = 4.0 * jnp.stack([tokens == ord("X"), tokens == ord("Y")], -1)
        logits = jnp.where(jnp.arange(tokens.shape[1])[None, :, None] == 0, 1.0, logits)
        return NeuralOutput(logits, jnp.eye(2), {}, vocab_size=2)


def pointer(seq_len=32):
    data = types.SimpleNamespace(seq_len=seq_len, question_len=8)
    objective = types.SimpleNamespace(kind="span")
    tokenizer = special_tokens.with_special_tokens(tokenizers.build("bytes"), special_tokens.BERT)
    config = types.SimpleNamespace(data=data, objective=objective)
    return types.SimpleNamespace(config=config, model=Points(), params={}, tokenizer=tokenizer)


@pytest.mark.parametrize("before", ["", "a rather long beginning, longer than a window is, and "])
def test_a_model_of_spans_cites_the_characters(before):
    text = before + "é: XabcY, and more"
    found = readers.read(pointer(), "Which?", [hit(1, "nothing here"), hit(2, text, 1000)])
    start = 1000 + text.index("X")
    assert found.text == "XabcY" and found.cited_by == "span"
    assert found.citations == (readers.Citation("p2", "file2", "", start, start + 5, "XabcY"),)


def test_a_model_of_spans_may_find_no_answer():
    found = readers.read(pointer(), "Which?", [hit(1, "nothing here")])
    assert found == readers.Answer("Which?", "", (), "")


def test_the_windows_are_those_of_training(tmp_path):
    """As data/tasks/answer_spans.py makes them for the same question and text."""
    from jaxlm.data.tasks.answer_spans import AnswerSpansConfig, AnswerSpansTask

    text, question = "Äpfel und Birnen, " * 5, "Was gibt es denn?"
    path = tmp_path / "spans.csv"
    path.write_text(f'context,question,answers\n"{text}",{question},Birnen\n')
    task = AnswerSpansTask(
        AnswerSpansConfig(str(path), starts_column="", seq_len=32, question_len=8, val_fraction=0.0)
    )
    (batch,) = task.eval("train", len(task._windows["train"]))
    found, offsets = readers._windows(pointer(), question, text)
    for name, values in found.items():
        np.testing.assert_array_equal(values, batch[name])
    np.testing.assert_array_equal(offsets, np.stack([raw.offsets for raw in batch["raw"]]))


def test_refuses_what_is_no_reader():
    lm = Chat("")
    lm.chat_template, lm.model = None, nn.Dense(1)
    with pytest.raises(ValueError, match="--reader: Dense is neither a chat model"):
        readers.read(lm, "Who?", HITS)
