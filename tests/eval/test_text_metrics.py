"""Translations, summaries, answers, diversity: the defining library's scores on real predictions, papers' formulas by hand."""

import collections
import math
import random
import re
import string

import nltk
import numpy as np
import pytest
import sacrebleu
from nltk.tokenize import wordpunct_tokenize
from nltk.translate import meteor_score
from real_predictions import translations, values
from rouge_score import rouge_scorer

from jaxlm.eval import answers, bootstrap, diversity, finish, summaries, translation, words


def sacrebleus():
    return {
        "bleu": sacrebleu.corpus_bleu,
        "chrf": sacrebleu.corpus_chrf,
        "ter": sacrebleu.corpus_ter,
    }


def test_translation_scores_are_those_of_sacrebleu():
    predictions, references = translations()
    rows = {row.name: row for row in translation.rows(predictions, references)}
    for name, score in sacrebleus().items():
        assert rows[name].value == score(predictions, [references]).score
        assert finish.FINISH[name](rows[name].statistics.sum(0)) == pytest.approx(
            rows[name].value, rel=1e-12
        )
    assert 20 < rows["bleu"].value < 90
    assert "BLEU|nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:" in rows["bleu"].signature
    assert rows["bleu"].higher_is_better and not rows["ter"].higher_is_better


def test_errors_of_translation_scores_are_sacrebleus_own():
    """Its 95 % interval is 1.96 errors to each side; its draws are others."""
    predictions, references = translations()
    for row in translation.rows(predictions, references)[:2]:
        metric = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[row.name]()
        score = metric.corpus_score(predictions, [references], n_bootstrap=1000)
        assert row.stderr == pytest.approx(score._ci / 1.96, rel=0.15)


def test_several_references_as_many_as_an_example_has():
    predictions, references = translations()
    twice = [
        [text, text.replace("e", "a")] if number % 2 else text
        for number, text in enumerate(references)
    ]
    streams = [references, [one[1] if isinstance(one, list) else None for one in twice]]
    rows = {row.name: row for row in translation.rows(predictions, twice)}
    for name, score in sacrebleus().items():
        assert rows[name].value == score(predictions, streams).score
    assert "nrefs:var" in rows["bleu"].signature


def test_sums_of_any_kind_finish_as_in_sacrebleu():
    """Without matches of high orders, without n-grams of them, without anything."""
    rng = random.Random(0)
    for _ in range(200):
        totals = sorted((rng.choice([0, 1, 3, 9]) for _ in range(4)), reverse=True)
        matches = [rng.randint(0, total) if rng.random() < 0.7 else 0 for total in totals]
        length, wanted = totals[0], rng.randint(0, 12)
        for effective in (False, True):
            expected = sacrebleu.BLEU.compute_bleu(
                list(matches), list(totals), length, wanted,
                smooth_method="exp", effective_order=effective,
            ).score  # fmt: skip
            sums = np.array([length, wanted, *matches, *totals], float)
            assert finish.bleu(sums, effective) == pytest.approx(expected, abs=1e-9)
        grams = [rng.choice([0, 2, 5]) for _ in range(12)]
        grams = [
            n for h, r in zip(grams[::2], grams[1::2], strict=True) for n in (h, r, min(h, r) // 2)
        ]
        expected = sacrebleu.CHRF()._compute_f_score(grams)
        assert finish.chrf(np.array(grams, float)) == pytest.approx(expected, abs=1e-9)


def test_chinese_is_scored_by_its_tokenizer():
    predictions, references = (
        ["今天天气很好。", "我喜欢看书。"],
        ["今天天气不错。", "我很喜欢看书。"],
    )
    rows = {row.name: row for row in translation.rows(predictions, references)}
    expected = sacrebleu.corpus_bleu(predictions, [references], tokenize="zh").score
    assert rows["bleu"].value == expected > 50 and "tok:zh" in rows["bleu"].signature
    # one substitution and one insertion of 7 + 7 characters, one of them left as it is
    assert rows["ter"].value == pytest.approx(100 * 3 / 14) and "asian:yes" in rows["ter"].signature
    assert values(translation.rows(predictions, references, tokenize="13a"))["bleu"] == 0
    with pytest.raises(ValueError, match='tokenize="chinese" is not one of .*zh'):
        translation.rows(predictions, references, tokenize="chinese")


@pytest.mark.parametrize(
    ("references", "tokenize"),
    [
        (["Der Name 东京 steht hier.", "Sonst ist es Deutsch.", "Und noch mehr."], "13a"),
        (["groupware 的邮件客户端", "Evolution 是软件套装。", "libass"], "zh"),
        (["東京は大きい。", "本を読む。"], "char"),  # kana beside Chinese letters
        (["สวัสดีครับ", "ขอบคุณ"], "char"),
        ([["안녕하세요 여러분", "안녕"]], "13a"),  # has spaces
    ],
)
def test_the_references_script_chooses_the_tokenizer_of_bleu(references, tokenize):
    assert translation.tokenizer_of(references) == tokenize
    bleu = translation.rows(["x"] * len(references), references)[0]
    assert f"|tok:{tokenize}|" in bleu.signature


def test_rouge_is_that_of_rouge_score():
    predictions, references = translations()
    kinds = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=True)
    each = [scorer.score(*pair) for pair in zip(references, predictions, strict=True)]
    rows = {row.name: row for row in summaries.rows(predictions, references)}
    for kind in kinds:
        assert rows[kind].value == pytest.approx(np.mean([one[kind].fmeasure for one in each]))
    assert re.search(r"letters beyond a-z dropped in \d+ of 24", rows["rouge1"].signature)


def test_sentences_of_rouge_lsum_are_lines():
    """In another order sentences match one by one, but have a short common subsequence."""
    prediction, reference = (
        "The cat sat. It slept! Then it ate.",
        "It slept! The cat sat. Then it ate.",
    )
    scorer = rouge_scorer.RougeScorer(["rougeLsum"], use_stemmer=True)
    lines = [text.replace(". ", ".\n").replace("! ", "!\n") for text in (reference, prediction)]
    expected = scorer.score(*lines)["rougeLsum"].fmeasure
    cut = values(summaries.rows([prediction], [reference], split_sentences=True))
    assert cut["rougeLsum"] == pytest.approx(expected) == pytest.approx(1.0)
    whole = values(summaries.rows([prediction], [reference]))
    assert whole["rougeLsum"] == whole["rougeL"] == cut["rougeL"] < 1
    assert summaries.lines("他来了。她走了。") == "他来了。\n她走了。"
    assert summaries.lines("One. Two.\nThree. Four.") == "One. Two.\nThree. Four."


def test_meteor_is_that_of_nltk_without_synonyms():
    """nltk's own example: 0.6944 with WordNet, which finds nothing there that the first two stages do not."""
    prediction = "It is a guide to action which ensures that the military always obeys the commands of the party"
    reference = (
        "It is a guide to action that ensures that the military will forever heed Party commands"
    )
    (row,) = (r for r in summaries.rows([prediction], [reference]) if r.name == "meteor")
    assert round(row.value, 4) == 0.6944
    assert "stages=exact, Porter stem|" in row.signature

    class Empty:
        def synsets(self, word):
            return []

    predictions, references = translations()
    expected = [
        meteor_score.single_meteor_score(
            wordpunct_tokenize(b), wordpunct_tokenize(a), wordnet=Empty()
        )
        for a, b in zip(predictions, references, strict=True)
    ]
    found = values(summaries.rows(predictions, references))["meteor"]
    assert found == pytest.approx(np.mean(expected))


def test_synonyms_are_never_left_out_in_silence(monkeypatch):
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(ValueError, match="python -m nltk.downloader wordnet"):
        summaries.rows(["a"], ["a"], synonyms=True)


def test_words_of_any_script():
    assert words.words("Größe: 3,5 m — naïve, don't") == [
        "Größe",
        "3",
        "5",
        "m",
        "naïve",
        "don",
        "t",
    ]
    assert words.words("我爱NLP，很好。") == ["我", "爱", "NLP", "很", "好"]
    assert words.words("e\u0301a 안녕 하세요 カナ") == ["e\u0301a", "안녕", "하세요", "カ", "ナ"]
    found = values(summaries.rows(["我爱你"], ["我很爱你"], tokenize="words"))
    assert found["rouge1"] == pytest.approx(6 / 7)
    assert values(summaries.rows(["我爱你"], ["我很爱你"]))["rouge1"] == 0


def squad(prediction, answers):
    """The official evaluation script of SQuAD 1.1 (Rajpurkar et al.), its lines put together."""

    def normalise(text):
        text = "".join(one for one in text.lower() if one not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def f1(answer):
        found, wanted = normalise(prediction).split(), normalise(answer).split()
        same = sum((collections.Counter(found) & collections.Counter(wanted)).values())
        return 0 if same == 0 else 2 * same / (len(found) + len(wanted))

    return max(normalise(prediction) == normalise(a) for a in answers), max(map(f1, answers))


def test_answers_are_scored_as_squad_does():
    predictions, references = translations()
    accepted = [[text, " ".join(text.split()[:5])] for text in references]
    predictions = [text.replace(" die ", " the ") for text in predictions]
    expected = [squad(*pair) for pair in zip(predictions, accepted, strict=True)]
    found = values(answers.rows(predictions, accepted))
    assert found["exact_match"] == np.mean([exact for exact, _ in expected]) > 0
    assert found["f1"] == pytest.approx(np.mean([f1 for _, f1 in expected]))
    assert squad("The Cat!", ["cat", "dog"]) == (True, 1)
    assert values(answers.rows(["The Cat!"], [["dog", "cat"]])) == {"exact_match": 1, "f1": 1}


def test_answers_beyond_ascii_and_without_an_answer():
    assert values(answers.rows(["北京市。"], ["北京"])) == {"exact_match": 0, "f1": 0.8}
    assert values(answers.rows(["„Köln“"], ["köln"]))["exact_match"] == 1
    # SQuAD 2.0: nothing is right where there is no answer
    assert values(answers.rows(["", "", "y"], [[], [], []]))["f1"] == pytest.approx(2 / 3)
    assert values(answers.rows(["a cat"], ["cat"], articles=()))["f1"] == pytest.approx(2 / 3)


def test_diversity_by_hand():
    texts = ["a b a b a b", "a b c", ""]
    found = values(diversity.rows(texts))
    assert found["distinct_1"] == 3 / 9
    assert found["distinct_2"] == 3 / 9  # ab ba bc
    assert found["distinct_3"] == 3 / 9  # aba bab abc
    assert found["repetition_2"] == pytest.approx(
        (1 - 2 / 5 + 0) / 2
    )  # ab ba of five; ab bc of two
    assert found["repetition_3"] == pytest.approx((1 - 2 / 4 + 0) / 2)
    assert found["repetition_4"] == pytest.approx(1 - 2 / 3)  # the others have none


def test_self_bleu_is_sacrebleus_sentence_score_against_all_others():
    texts = [*translations()[0][:12], translations()[0][0]]  # one of them twice
    metric = sacrebleu.BLEU(effective_order=True)
    expected = [
        metric.sentence_score(text, texts[:number] + texts[number + 1 :]).score
        for number, text in enumerate(texts)
    ]
    assert expected[0] == pytest.approx(100)
    assert diversity.self_bleu(texts).value == pytest.approx(np.mean(expected))


ALL = {
    "translation": translation.rows,
    "summaries": summaries.rows,
    "answers": answers.rows,
}


@pytest.mark.parametrize("rows", ALL.values(), ids=ALL)
def test_order_moves_no_score_and_statistics_are_the_examples_own(rows):
    predictions, references = translations()
    order = np.random.default_rng(0).permutation(len(references))
    mixed = [[side[number] for number in order] for side in (predictions, references)]
    for one, two in zip(rows(predictions, references), rows(*mixed), strict=True):
        assert one.value == pytest.approx(two.value, rel=1e-12)
        assert one.stderr == pytest.approx(two.stderr, rel=1e-9)
        np.testing.assert_allclose(one.statistics[order], two.statistics)
        assert one.value == pytest.approx(finish.FINISH[one.finish](one.statistics.sum(0)))


@pytest.mark.parametrize("rows", ALL.values(), ids=ALL)
def test_empty_texts_and_single_ones(rows):
    for row in rows(["", "a b"], ["c d", "a b"]):
        assert math.isfinite(row.value) and math.isfinite(row.stderr)
    for row in rows([""], [""]):
        best = row.name in ("exact_match", "f1")
        assert row.value == float(best) and math.isnan(row.stderr)
    for row in rows(["a b c"], [""]):
        assert row.value == (100 if row.name == "ter" else 0)
    with pytest.raises(ValueError, match="0 texts and references for 0"):
        rows([], [])
    with pytest.raises(ValueError, match="2 texts and references for 1"):
        rows(["a", "b"], ["a"])


def test_what_cannot_be_said_is_nan_and_no_reference_is_refused():
    assert all(math.isnan(row.value) for row in diversity.rows([""]))
    assert math.isnan(values(diversity.rows(["a b"]))["self_bleu"])
    with pytest.raises(ValueError, match="0 texts"):
        diversity.rows([])
    for rows in (translation.rows, summaries.rows):
        with pytest.raises(ValueError, match="example 1 has none"):
            rows(["a", "b"], ["a", []])


def test_a_better_system_is_found_and_a_copy_is_not():
    predictions, references = translations()
    worse = [" ".join(text.split()[:-2]) for text in predictions]
    for good, bad in zip(
        ALL["translation"](predictions, references),
        ALL["translation"](worse, references),
        strict=True,
    ):
        found = bootstrap.paired(
            good.statistics, bad.statistics, good.finish,
            higher_is_better=good.higher_is_better, names=("good", "bad"),
        )  # fmt: skip
        assert found.better == "good", good.name
        assert found.first - found.second == pytest.approx(good.value - bad.value)
