"""GLM from end to end: blanks, then pairs from the same weights; what it writes and scores is what one forward pass says."""

import numpy as np
import pytest

import jaxlm
from jaxlm import config

LINES = [f"{n} is {n} times one, and {n * n} is {n} squared." for n in range(300)]


def make_config(name, objective, **data):
    cfg = config.base()
    cfg.model = config.section("model", "glm", num_layers=1, d_model=16, num_heads=2, max_len=32)
    cfg.data = config.section("data", name, **data)
    cfg.objective = config.section("objective", objective)
    cfg.num_steps, cfg.batch_size, cfg.log_every = 2, 8, 1
    cfg.eval_every = cfg.sample_every = 2
    return cfg


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glm")
    (folder / "text.txt").write_text("\n".join(LINES))
    (folder / "pairs.tsv").write_text("".join(f"{n} is {n}\t{n} ist {n}\n" for n in range(200)))
    text = {"path": str(folder / "text.txt"), "tokenizer": "bytes", "long_share": 0.5}
    cfg = make_config("blank_text", "blank_infilling", **text)
    jaxlm.run(cfg, folder / "blanks")
    pairs = {"path": str(folder / "pairs.tsv"), "source_len": 24, "target_len": 24}
    cfg = make_config("pairs", "seq2seq", tokenizer="init_from", **pairs)
    cfg.init_from = str(folder / "blanks")
    cfg.evaluators = ("perplexity", "translation")
    return folder, jaxlm.run(cfg, folder / "pairs")


def log_probs(lm, source, targets):
    """Of each target by one forward pass, and of all tokens at its place."""
    logits = lm.logits(np.array([[0, *targets[:-1]]]), source=np.array([source]))[0]
    logits = np.asarray(logits, np.float64)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logps[np.arange(len(targets)), targets], logps


@pytest.mark.slow
def test_blanks_are_shown_filled(runs):
    folder, _ = runs
    lines = (folder / "blanks" / "samples.txt").read_text().splitlines()
    shown = [line.split(maxsplit=1) for line in lines if line.startswith(("source", "target"))]
    for (_, source), (_, target) in zip(shown[::2], shown[1::2], strict=True):
        before, after = source[1:].split("[MASK]")[:2]
        assert before[-6:] + target[1:-1] + after[:6] in "\\n".join(LINES)


@pytest.mark.slow
def test_pairs_go_on_from_blanks(runs):
    folder, summary = runs
    lm = jaxlm.load(folder / "pairs")
    assert lm.model.config.mask_id == 257 and summary["bleu"] >= 0 and summary["loss"] < 6
    source = [*lm.tokenizer.encode("5 is 5"), 256]
    ((best,),) = lm.write("5 is 5", temperature=0.0, max_tokens=5)
    _, logps = log_probs(lm, source, [*best.tokens, 0][:5])
    assert best.tokens == logps.argmax(-1)[: len(best.tokens)].tolist()
    (beam, *_), _ = lm.write(["5 is 5", "17"], method="beam", num_beams=3, max_tokens=5)
    assert beam.score >= best.score - 1e-6
    targets = lm.tokenizer.encode(" 5 ist 5")
    (found,) = lm.loglikelihoods([("5 is 5", " 5 ist 5")])
    np.testing.assert_allclose(found.per_token, log_probs(lm, source, targets)[0], atol=1e-4)


@pytest.mark.slow
def test_a_long_text_is_scored_with_prompts_as_in_training(runs):
    """What stands before a window is its source, with the end behind it at whose place the text goes on."""
    folder, _ = runs
    lm = jaxlm.load(folder / "blanks")
    ids = lm.tokenizer.encode("6 is 6 times one, and 36 is 6 squared. 7 is 7").tolist()
    (found,) = lm.rolling([ids], context=16)
    assert len(ids) == 45
    first, _ = log_probs(lm, [256, 256], ids[:32])
    rest, _ = log_probs(lm, [*ids[12:32], 256], ids[32:])
    np.testing.assert_allclose(found.per_token, [*first, *rest], atol=1e-4)


@pytest.mark.slow
def test_too_long_a_prompt_or_text_is_refused(runs):
    folder, _ = runs
    lm = jaxlm.load(folder / "blanks")
    with pytest.raises(ValueError, match="max_tokens=33 is more than the model can write, 32"):
        lm.generate("5 is", max_tokens=33)
    with pytest.raises(ValueError, match="a source of 41 tokens is more than the model can read"):
        lm.generate("5 is" * 10, max_tokens=6)
    assert len(lm.write("5 is", max_tokens=32)[0][0].tokens) <= 32
