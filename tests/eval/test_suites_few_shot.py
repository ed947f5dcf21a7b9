"""Prompts with examples, and answers that are chosen or written."""

import json

import numpy as np
import pytest
import suite_models
from suite_models import Told

from jaxlm.data import tokenizers
from jaxlm.eval.suites import SUITES, data, kind, make, option_names, options_of


def rows(found):
    return {row.name: row.value for row in found.scores.rows}


def questions(prompt):
    return [line.removeprefix("Question: ") for line in prompt.split("\n") if line[:3] == "Que"]


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def test_the_last_tenth_of_few_lines_and_the_last_twentieth_of_many_are_scored():
    assert [data.held_out(count) for count in (671, 999, 1000, 4036)] == [603, 899, 950, 3834]
    trivia = data.lines("bundled:trivia")
    assert (len(trivia.examples), len(trivia.scored)) == (603, 68)
    (shakespeare,) = data.domains("bundled:shakespeare")
    assert len(shakespeare.documents[0]) == 99_999 and len(shakespeare.digest) == 64


def test_a_users_file_is_scored_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("all of it")
    assert data.domains(str(path))[0].documents == ["all of it"]
    tsv = tmp_path / "a.tsv"
    tsv.write_text("one\teins\n\ntwo\tzwei\n")
    assert data.lines(str(tsv)).scored == [
        {"source": "one", "target": "eins"},
        {"source": "two", "target": "zwei"},
    ]


def test_examples_come_from_training_lines_are_nested_and_a_function_of_the_seed():
    def prompts(shots, seed=0, limit=4):
        lm = Told()
        make("qa", {"shots": str(shots), "seed": seed, "limit": limit}).run(lm)
        return [questions(prompt) for prompt in lm.prompts]

    asked = data.lines("bundled:trivia")
    held_out = {record["question"] for record in asked.scored}
    training = {record["question"] for record in asked.examples}
    two, four = prompts(2), prompts(4)
    assert [len(one) for one in four] == [5] * 4
    for short, long in zip(two, four, strict=True):
        assert short == long[2:]
        assert long[-1] in held_out and set(long[:-1]) <= training
    assert prompts(4, limit=2) == four[:2] and prompts(4, seed=1) != four
    assert len({tuple(one[:-1]) for one in four}) == 4  # each question has its own


def test_the_prompt_to_the_letter(tmp_path):
    scored = write(tmp_path / "a.jsonl", [{"question": "2+2?", "answer": "4"}])
    others = write(tmp_path / "b.jsonl", [{"question": "1+1?", "answers": ["2", "two"]}])
    lm = Told(lambda prompt: " four \n")
    found = make("qa", {"data": scored, "examples": others, "shots": "1"}).run(lm)
    assert lm.prompts == ["Question: 1+1?\nAnswer: 2\n\nQuestion: 2+2?\nAnswer:"]
    assert lm.settings["stop"] == ("\n",) and lm.settings["temperature"] == 0.0
    (example,) = found.scores.examples
    assert (example["prediction"], example["reference"], example["score"]) == ("four", "4", 0.0)
    assert set(found.data) == {scored, others}


def test_examples_that_do_not_fit_are_left_out_from_the_front_and_counted():
    lm = Told(max_len=200)
    found = make("qa", {"shots": "8", "limit": 3, "max_tokens": "20"}).run(lm)
    for prompt, example in zip(lm.prompts, found.scores.examples, strict=True):
        assert len(prompt) + 20 <= 200 - 1
        assert 0 < example["shots"] == len(questions(prompt)) - 1 < 8
    assert "shots=8|fewer shots fit in 3 prompts" in found.scores.rows[0].signature


def test_what_the_context_or_the_tokenizer_lacks_is_in_the_signature(tmp_path):
    asked = [{"question": "x" * size, "answer": "4"} for size in (10, 12, 30)]
    scored = write(tmp_path / "a.jsonl", asked)
    lm = Told(max_len=40)  # Question: , the question, a line break, Answer: and what follows
    found = make("qa", {"data": scored, "max_tokens": "10"}).run(lm)
    said = found.scores.rows[0].signature
    assert "|shots=0|prompt and answer exceed the context in 2 prompts|seed" in said
    lm.tokenizer = tokenizers.build("chars", ["Question: x\nAw"])  # no r
    found = make("qa", {"data": scored, "limit": 1, "max_tokens": "10"}).run(lm)
    assert "|shots=0|unknown tokens in 1 prompts|seed" in found.scores.rows[0].signature


def test_a_curve_has_a_row_and_a_line_for_each_number_of_shots():
    lm = Told(lambda prompt: "Europium" if prompt.count("Question:") > 2 else "no")
    found = make("qa", {"shots": "0,2", "limit": 5}).run(lm)
    assert list(rows(found)) == ["exact_match_0shot", "f1_0shot", "exact_match_2shot", "f1_2shot"]
    assert [line["shots"] for line in found.scores.tables["shots"]] == [0, 2]
    assert [line["f1"] for line in found.scores.tables["shots"]] == [
        rows(found)["f1_0shot"],
        rows(found)["f1_2shot"],
    ]
    assert len(found.scores.examples) == 10
    assert len({example["id"] for example in found.scores.examples}) == 10


def test_perfect_answers_score_one_and_topics_are_apart():
    truth = {r["question"]: r["answers"][0] for r in data.lines("bundled:trivia").scored}
    capitals = {
        r["question"] for r in data.lines("bundled:trivia").scored if r["topic"] == "collectives"
    }
    lm = Told(lambda prompt: truth[questions(prompt)[-1]])
    assert rows(make("qa", {}).run(lm)) == {"exact_match": 1.0, "f1": 1.0}
    only = Told(lambda p: truth[q] if (q := questions(p)[-1]) in capitals else "wrong")
    found = make("qa", {}).run(only)
    groups = {line["group"]: line["exact_match"] for line in found.scores.tables["groups"]}
    assert groups["collectives"] == 1.0 and groups["elements"] == 0.0
    assert rows(found)["exact_match"] == len(capitals) / 68


CHOICES = [
    {"question": "a?", "choices": ["short", "rather long"], "answer": 1},
    {"question": "b?", "choices": ["no", "yes"], "answer": 0},
]


def test_three_ways_to_normalise_by_hand(tmp_path):
    """Sums -10 and -11; by bytes -10/5 and -11/11; by tokens (one a byte, the space counts) -10/6 and -11/12."""
    scored = write(tmp_path / "a.jsonl", CHOICES)
    values = {" short": -10.0, " rather long": -11.0, " no": -1.0, " yes": -4.0}
    found = make("choice", {"data": scored}).run(Told(likelihood=values.__getitem__))
    assert rows(found) == {"accuracy": 0.5, "accuracy_per_byte": 1.0, "accuracy_per_token": 1.0}
    assert [example["score"] for example in found.scores.examples] == [-1.0, 3.0]
    assert found.scores.examples[0]["prediction"] == "short"
    assert "chance=0.5000" in found.scores.rows[0].signature
    signature = found.scores.rows[1].signature
    assert "normalised by=bytes" in signature and "shots=0" in signature


def test_choice_by_a_real_model_is_that_of_its_logits(tmp_path):
    import jax

    lm = suite_models.small()
    scored = write(tmp_path / "a.jsonl", CHOICES)
    found = make("choice", {"data": scored, "batch_size": 3}).run(lm)
    for record, example in zip(CHOICES, found.scores.examples, strict=True):
        before = lm.tokenizer.encode(f"Question: {record['question']}\nAnswer:").tolist()
        for choice, total in example["choices"].items():
            ids = before + lm.tokenizer.encode(f" {choice}").tolist()
            row = np.zeros((1, 32), np.int32)
            row[0, : len(ids)] = ids
            logs = np.asarray(jax.nn.log_softmax(lm.logits(row)[0]))
            places = range(len(before), len(ids))
            assert total == pytest.approx(sum(logs[p - 1, ids[p]] for p in places), rel=1e-5)


def test_a_choice_longer_than_the_context_is_read_in_windows(tmp_path):
    records = [{"question": "a?", "choices": ["x" * 40, "y"], "answer": 0}]
    lm = Told(likelihood=lambda text: -2.0, max_len=30)
    found = make("choice", {"data": write(tmp_path / "a.jsonl", records)}).run(lm)
    assert found.scores.examples[0]["choices"] == {"x" * 40: -41.0, "y": -2.0}


def test_labels_are_the_commonest_of_training_and_others_are_left_out(tmp_path):
    others = write(
        tmp_path / "b.jsonl",
        [{"text": "t", "label": label} for label in ("c", "a", "b", "b", "b", "c")],
    )
    scored = write(
        tmp_path / "a.jsonl",
        [{"text": "one", "label": "b"}, {"text": "two", "label": "a"}]
        + [{"text": "three", "label": "c"}],
    )
    options = {"data": scored, "examples": others, "text_column": "text", "label_column": "label"}
    lm = Told(likelihood={" c": -1.0, " b": -1.0 - np.log(3)}.__getitem__)
    found = make("classification", options | {"num_labels": "2"}).run(lm)
    values = rows(found)
    assert [example["input"] for example in found.scores.examples] == ["one", "three"]
    assert values["accuracy"] == 0.5
    assert values["loss"] == pytest.approx(-(np.log(0.25) + np.log(0.75)) / 2)  # softmax 3 : 1
    assert [line["class"] for line in found.scores.tables["classes"]] == ["b", "c"]


def test_labels_of_a_users_file_alone_are_its_own_and_a_hopeless_one_has_a_finite_loss(tmp_path):
    lines = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]
    options = {"data": write(tmp_path / "a.jsonl", lines), "text_column": "text"}
    lm = Told(likelihood={" a": -1.0, " b": -2001.0}.__getitem__)
    found = make("classification", options | {"label_column": "label"}).run(lm)
    assert rows(found)["accuracy"] == 0.5 and rows(found)["loss"] == pytest.approx(1000)


def test_an_encoder_decoder_reads_the_source_alone():
    lm = Told(lambda source: source.upper())
    lm.model = suite_models.FakeModel("encoder_decoder", ("source", "tokens"))
    found = make("translation", {"limit": 2}).run(lm)
    assert lm.prompts == [record["source"] for record in data.lines("bundled:en-de").scored[:2]]
    assert found.scores.examples[0]["prediction"] == lm.prompts[0].upper()
    assert lm.settings["stop"] == () and list(rows(found)) == ["bleu", "chrf", "ter"]
    with pytest.raises(ValueError, match="--shots 1: FakeModel reads a source"):
        make("translation", {"limit": 2, "shots": "1"}).run(lm)


@pytest.mark.slow
def test_a_real_encoder_decoder_translates():
    lm = suite_models.made("t5", num_layers=1, d_model=16, num_heads=2, d_ff=32)
    found = make("translation", {"limit": 2, "max_tokens": "4"}).run(lm)
    source = data.lines("bundled:en-de").scored[0]["source"]
    alone = lm.generate(source, max_tokens=4, temperature=0.0)[0]
    assert found.scores.examples[0]["prediction"] == alone.strip()


def test_summaries_and_translations_that_are_right_score_full():
    packages = {
        " ".join(r["description"].split()): r for r in data.lines("bundled:packages").scored
    }

    def synopsis(prompt):
        text = prompt.removeprefix("Description: ").removesuffix("\nSynopsis:")
        return packages[text]["synopsis"]

    found = make("summaries", {"limit": 6}).run(Told(synopsis))
    assert rows(found)["rougeL"] == 1.0 and len(found.scores.examples) == 6
    pairs = {r["source"]: r["target"] for r in data.lines("bundled:en-de").scored}

    def german(prompt):
        return pairs[prompt.removeprefix("English: ").removesuffix("\nGerman:")]

    assert rows(make("translation", {"limit": 6}).run(Told(german)))["bleu"] == pytest.approx(100)


def test_free_texts_of_one_word_have_no_variety():
    found = make("diversity", {"limit": 4}).run(Told(lambda prompt: "la la la la"))
    assert rows(found)["distinct_1"] == 1 / 16 and rows(found)["repetition_2"] == pytest.approx(
        2 / 3
    )
    assert len(found.scores.examples) == 4
    assert all(len(example["input"].split()) <= 6 for example in found.scores.examples)


@pytest.mark.parametrize(
    ("suite", "options", "message"),
    [
        ("qaa", {}, 'suite "qaa" is not known .did you mean "qa"'),
        ("qa", {"shot": "1"}, r'no option shot \(did you mean "shots"\?\)'),
        ("qa", {"shots": "a"}, "--shots .*: expected whole numbers joined by ,"),
        ("qa", {"shots": "1,1"}, "expected different numbers"),
        ("qa", {"shots": "700"}, "--shots 700 needs as many solved examples, and there are 597"),
        ("qa", {"seed": "-1"}, "--seed -1 must be at least 0"),
        ("diversity", {"seed": "-1"}, "--seed -1 must be at least 0"),
        ("qa", {"limit": "1.5"}, "--limit 1.5: expected a whole number"),
        ("qa", {"temperature": "-1"}, "--temperature -1.0 must be 0"),
        ("qa", {"data": "nothing.jsonl"}, "no such file"),
        ("qa", {"data": "bundled:shakespeare"}, "is txt: expected .jsonl, .csv or .tsv"),
        ("qa", {"data": "bundled:packages"}, 'no "question" .* its columns are package, section'),
        ("diversity", {"limit": "1"}, "at least 2 texts"),
        ("json:loads", {}, "is no suite"),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_line(suite, options, message):
    with pytest.raises(ValueError, match=message):
        make(suite, options).run(Told())


def test_scored_lines_of_a_users_file_are_never_examples(tmp_path):
    scored = write(tmp_path / "a.jsonl", [{"question": str(n), "answer": "4"} for n in range(9)])
    with pytest.raises(ValueError, match="name a file of others in --examples"):
        make("qa", {"data": scored, "shots": "1"}).run(Told())


def test_a_scored_question_that_is_among_the_examples_too_is_left_out(tmp_path):
    both = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]
    scored = write(tmp_path / "a.jsonl", both[:1])
    others = write(tmp_path / "b.jsonl", both)
    for seed in range(4):
        lm = Told()
        make("qa", {"data": scored, "examples": others, "shots": "1", "seed": seed}).run(lm)
        assert [questions(prompt) for prompt in lm.prompts] == [["2+2?", "1+1?"]]
    with pytest.raises(ValueError, match="there are 1: .*scored questions are never used"):
        make("qa", {"data": scored, "examples": others, "shots": "2"}).run(Told())


def test_a_model_without_a_tokenizer_is_asked_nothing():
    lm = Told()
    lm.tokenizer = None
    with pytest.raises(ValueError, match="this model has no tokenizer"):
        make("choice", {}).run(lm)


def test_every_suite_is_there_and_its_options_are_json():
    for name in SUITES:
        assert option_names(kind(name)), name
        json.dumps(options_of(make(name, {})))
