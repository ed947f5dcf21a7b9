"""What a loaded model can do: vectors of texts, hidden states, prompts with their template, sources of an encoder-decoder."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stored

import jaxlm
from jaxlm import config
from jaxlm.data import infilling, special_tokens, tokenizers
from jaxlm.decode.texts import Writer
from jaxlm.interop import sentence
from jaxlm.language_model import LanguageModel
from jaxlm.models.glm import GLM, GLMConfig
from jaxlm.models.t5 import T5, T5Config
from jaxlm.train import assembly

WORDS = [*stored.WORDS, *"0123456789"][:40]
TEXTS = ["a", "the cat sat on the mat and then some more of it", "", "two words"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return stored.write(
        tmp_path_factory.mktemp("bert"), stored.bert_config(), stored.bert_tensors(), WORDS
    )


def ids(text, limit=24):
    """<s> text </s>, cut, as the folder's template says."""
    return [0, *[WORDS.index(c) for c in text][: limit - 2], 1]


def test_vectors_are_the_normalised_mean_of_each_text_alone(encoder):
    lm = jaxlm.load(encoder)
    found = lm.embed(TEXTS)
    assert found.shape == (4, 16) and found.dtype == np.float32
    for text, vector in zip(TEXTS, found, strict=True):
        mean = np.asarray(lm.hidden(np.array([ids(text)])))[0].mean(0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
        plain = dataclasses.replace(lm, sentence=sentence.Sentence(normalise=False))
        np.testing.assert_allclose(plain.embed(text)[0], mean, atol=1e-5)
    np.testing.assert_allclose(lm.embed(TEXTS[3])[0], found[3], atol=1e-6)


def test_the_folder_says_how_to_pool_and_how_much_to_read(encoder, tmp_path):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / name).write_bytes((encoder / name).read_bytes())
    kinds = [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling")]
    modules = [{"type": kinds[0], "path": ""}, {"type": kinds[1], "path": "1_Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    pooling = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 6}')
    lm = jaxlm.load(tmp_path)
    assert lm.sentence == sentence.Sentence("first", False, 6)
    expected = np.asarray(lm.hidden(np.array([ids(TEXTS[1], limit=6)])))[0, 0]
    np.testing.assert_allclose(lm.embed(TEXTS[1])[0], expected, atol=1e-5)
    pooling["pooling_mode_mean_tokens"] = True
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    with pytest.raises(ValueError, match="pooling_mode_cls_token, pooling_mode_mean_tokens can't"):
        jaxlm.load(tmp_path)
    (tmp_path / "modules.json").write_text('[{"type": "x.models.Dense", "path": "2_Dense"}]')
    with pytest.raises(ValueError, match="Dense is not known; known are Transformer, Pooling"):
        jaxlm.load(tmp_path)


def test_who_writes_no_text_and_who_is_no_sentence_encoder_says_so(encoder, tmp_path):
    lm = jaxlm.load(encoder)
    with pytest.raises(ValueError, match="BERT reads both ways: it writes no text"):
        lm.generate("a")
    with pytest.raises(ValueError, match="BERT takes no source"):
        lm.logits([[1, 2]], source=[[1]])
    gpt = jaxlm.load(stored.write(tmp_path, stored.LLAMA, stored.llama_tensors()))
    with pytest.raises(ValueError, match="GPT is no sentence encoder"):
        gpt.embed("a")
    for kind in ("bag_of_embeddings", "rnn_classifier"):
        lm = made(kind, d_model=8, num_labels=2)
        with pytest.raises(ValueError, match="is no sentence encoder: it has no states without"):
            lm.embed("a")


def made(kind, template=False, special=(), **fields):
    """A model with random weights and the characters as its tokens."""
    cfg = config.base()
    tokenizer = tokenizers.build("chars", ["abcdefghij "])
    tokenizer = special_tokens.with_special_tokens(tokenizer, special)
    cfg.model = config.section("model", kind, vocab_size=tokenizer.vocab_size, **fields)
    cfg.data = config.section("data", "text", seq_len=32)
    model = assembly.make_model(cfg)
    inputs = {name: jnp.zeros((1, 1), jnp.int32) for name in model.inputs}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), **inputs))["params"]
    return LanguageModel(model, params, tokenizer, cfg, 0, template)


def test_an_encoder_decoder_writes_from_sources_of_any_length():
    lm = made("t5", num_layers=1, d_model=16, num_heads=2, d_ff=32)
    prompts = ["abc", "a bad cafe"]
    texts = lm.generate(prompts, max_tokens=4, temperature=0.0)
    for prompt, text in zip(prompts, texts, strict=True):
        source = [[*lm.tokenizer.encode(prompt), lm.tokenizer.eos_id]]
        tokens = np.full((1, 5), lm.model.config.decoder_start_id)
        for place in range(4):  # what stands behind a place does not count
            logits = lm.logits(tokens, source=np.array(source))
            tokens[0, place + 1] = np.asarray(logits)[0, place].argmax()
        written = tokens[0, 1:].tolist()
        if lm.tokenizer.eos_id in written:
            written = written[: written.index(lm.tokenizer.eos_id)]
        assert text == lm.tokenizer.decode(written)
    with pytest.raises(ValueError, match="T5 needs a source"):
        lm.logits([[0]])
    with pytest.raises(ValueError, match=r"source must be integers \[B, S\]"):
        lm.logits([[0]], source=[1.0])


@pytest.mark.slow
def test_learned_positions_are_a_limit_of_what_is_read_and_written():
    fields = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 20}
    lm = made("encoder_decoder", positions="learned", **fields)
    (text,) = lm.write("abcabcabcabcabcabca", max_tokens=20)  # 19 and <eos>: not padded beyond 20
    assert text[0].finish == "end" or len(text[0].tokens) == 20
    with pytest.raises(ValueError, match="a source of 21 tokens is more than .* can read, 20"):
        lm.write("abcabcabcabcabcabcab", max_tokens=4)
    with pytest.raises(ValueError, match="max_tokens=21 is more than the model can write, 20"):
        lm.write("abc", method="beam", max_tokens=21)


def test_where_nobody_says_how_much_as_much_is_written_as_there_is_room_for(writer, monkeypatch):
    asked = []

    def write(self, *given, max_tokens, **how):
        asked.append((max_tokens, self.max_len))
        return []

    monkeypatch.setattr(Writer, "write", write)
    for method in ("sample", "beam", "contrastive"):
        writer.write("abc", method=method)
    assert asked == [(200, 32), (16, 32), (16, 32)]  # a sample goes on where its context is full
    shape, asked[:] = {"vocab_size": 13, "max_len": 20, "mask_id": 12}, []
    for model in (
        GLM(GLMConfig(**shape)),
        GLM(GLMConfig(**shape, positions="rotary")),
        T5(T5Config()),
    ):
        dataclasses.replace(writer, model=model).write("abc")
    assert asked == [(20, 21), (200, 256), (200, 256)]
    dataclasses.replace(writer, model=GLM(GLMConfig(**shape))).write("abc", max_tokens=21)
    assert asked.pop()[0] == 21  # which is refused


def test_prompts_get_the_template_where_a_model_was_trained_with_it(tmp_path):
    """<s> before a prompt of a model that was trained elsewhere; </s>, which would end the text, not."""
    lm = jaxlm.load(stored.write(tmp_path, stored.LLAMA, stored.llama_tensors(), WORDS))
    assert lm.reader.encode(["ab"]) == [[0, 2, 3]]
    own = LanguageModel(lm.model, lm.params, lm.tokenizer, lm.config, 0)
    assert own.reader.encode(["ab"])[0].tolist() == [2, 3]


@pytest.fixture(scope="module")
def writer():
    return made("gpt", num_layers=1, d_model=16, num_heads=2, max_len=32, init_std=1.0)


def test_texts_do_not_depend_on_batch_size_or_on_the_prompts_beside_them(writer):
    prompts = ["abc", "abcdefghij" * 5, "j", ""]
    texts = writer.generate(prompts, max_tokens=9, seed=4)
    assert texts == writer.generate(prompts, max_tokens=9, seed=4, batch_size=1)
    assert texts != writer.generate(prompts, max_tokens=9, seed=5)
    (greedy,) = writer.generate("abc", max_tokens=1, temperature=0.0)
    logits = writer.logits(writer.tokenizer.encode("abc")[None])
    assert greedy == writer.tokenizer.decode([int(np.asarray(logits)[0, -1].argmax())])


def test_more_positions_than_were_trained_are_refused(writer):
    for score, given in ((writer.rolling, ["abc"]), (writer.loglikelihoods, [("a", "b")])):
        for wrong in (0, 33):
            with pytest.raises(ValueError, match=rf"max_len={wrong} must be in 1\.\.32"):
                score(given, max_len=wrong)


def test_token_ids_are_prompts_too(writer):
    ids = writer.tokenizer.encode("a bad").tolist()
    assert writer.generate([ids, "abc"], max_tokens=9) == writer.generate(
        ["a bad", "abc"], max_tokens=9
    )
    for wrong in ([[-1]], [[99]], [["a"]], [1, 2], [None]):
        with pytest.raises(
            ValueError, match=r"prompts.0.=.* must be a text, or token ids in 0..12"
        ):
            writer.generate(wrong)


def test_an_empty_prompt_is_the_token_that_begins_a_text(writer, tmp_path):
    """The template's <s> where the model was trained with one; else the token between documents."""
    end = writer.tokenizer.eos_id
    assert writer.write("", max_tokens=9) == writer.write([[end]], max_tokens=9)
    lm = jaxlm.load(stored.write(tmp_path, stored.LLAMA, stored.llama_tensors(), WORDS))
    assert lm.generate("", max_tokens=5) == lm.generate([[0]], max_tokens=5)
    nothing = dataclasses.replace(writer, tokenizer=WithoutEnd(writer.tokenizer))
    with pytest.raises(ValueError, match="no token begins a text"):
        nothing.generate("")


class WithoutEnd:
    """A tokenizer without a token between documents."""

    eos_id = None

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __getattr__(self, name):
        return getattr(self.tokenizer, name)


def test_texts_end_where_the_tokenizer_or_the_folder_says(tmp_path):
    """generation_config.json: a token id, or several."""
    folder = stored.write(tmp_path, stored.LLAMA, stored.llama_tensors(), WORDS)
    free = jaxlm.load(folder).write("ab", max_tokens=8)[0][0]
    assert free.finish == "length"
    last = free.tokens[5]
    for said in (last, [39, last]):
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": said}))
        lm = jaxlm.load(folder)
        assert last in lm.end_ids
        found = lm.write("ab", max_tokens=8)[0][0]
        assert found.tokens == free.tokens[: free.tokens.index(last)] and found.finish == "end"
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": "</s>"}')
    with pytest.raises(ValueError, match="eos_token_id='</s>' must be a token id"):
        jaxlm.load(folder)


def test_methods_by_name(writer):
    (beams,) = writer.write("abc", method="beam", num_beams=3, num_return=2, max_tokens=5)
    assert len(beams) == 2 and beams[0].score >= beams[1].score
    assert writer.generate("abc", method="beam", num_beams=3, max_tokens=5) == [beams[0].text]
    greedy = writer.generate("abc", temperature=0.0, max_tokens=5)
    assert writer.generate("abc", method="contrastive", top_k=1, max_tokens=5) == greedy
    assert (
        writer.generate("abc", draft=writer, num_draft=2, temperature=0.0, max_tokens=5) == greedy
    )
    other = dataclasses.replace(writer, tokenizer=tokenizers.build("bytes"))
    with pytest.raises(ValueError, match="draft: its tokenizer is not this model's"):
        writer.generate("abc", draft=other)
    reader = dataclasses.replace(writer, model=T5(T5Config()))
    with pytest.raises(ValueError, match="draft: it reads .*source.*, not"):
        writer.generate("abc", draft=reader)
    with pytest.raises(ValueError, match='num_beams is no setting of method="sample"'):
        writer.generate("abc", num_beams=4)


SMALL = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 32, "init_std": 1.0}
PRE, SUF, MID = 13, 14, 15  # behind 11 characters, <unk> and <eos>


@pytest.fixture(scope="module")
def filler():
    return made("gpt", special=special_tokens.FIM, **SMALL)


def test_a_gap_is_filled_from_both_sides(filler):
    """What is read: PRE SUF, the text behind, MID, the text before; of a long text what is next to the gap."""
    texts = [
        "ab[MASK]cd",
        "[MASK]",
        "abcdefghij" * 5 + "[MASK]" + "jihgf" * 7,
        "[MASK]j" + "ab" * 20,
    ]
    near = (
        [*range(1, 11)] * 5,
        [10, 9, 8, 7, 6] * 7,
    )  # of 32 positions 8 are for the filling, 4 for more
    reads = [
        [PRE, SUF, 3, 4, MID, 1, 2],
        [PRE, SUF, MID],
        [PRE, SUF, *near[1][:10], MID, *near[0][-10:]],
        [PRE, SUF, 10, *[1, 2] * 9, 1, MID],
    ]
    found = filler.fill(texts, seed=3)
    for text, one, (expected,) in zip(
        texts, found, filler.write(reads, max_tokens=8, seed=3), strict=True
    ):
        (filling,) = one.fillings
        assert filling.tokens == expected.tokens and filling.finish == expected.finish
        assert one.text == text.replace("[MASK]", filling.text) and len(filling.tokens) <= 8
    assert filler.infill(texts, seed=3) == [one.text for one in found]
    assert "length" in {one.fillings[0].finish for one in found}


def test_gaps_are_filled_one_after_the_other():
    """GLM reads what it wrote into the first gap as text when it fills the second."""
    lm = made("glm", special=["[MASK]"], mask_id=13, **SMALL)
    options, end = {"temperature": 0.0, "max_tokens": 5}, lm.tokenizer.eos_id
    (found,) = lm.fill("a[MASK]b[MASK]c", **options)
    first, second = found.fillings
    ((again,),) = lm.write([[1, 13, 2, 13, 3, end]], **options)
    assert first.tokens == again.tokens
    before = lm.tokenizer.encode(f"a{first.text}b").tolist()
    ((again,),) = lm.write([[*before, 13, 3, end]], **options)
    assert second.tokens == again.tokens
    assert found.text == f"a{first.text}b{second.text}c"


def test_who_fills_what(filler, writer):
    with pytest.raises(ValueError, match='this GPT was not trained to.*"fim_text" fills one'):
        writer.infill("a[MASK]b")
    with pytest.raises(ValueError, match="max_tokens=28 must be in 1..27"):
        filler.fill("a[MASK]", max_tokens=28)
    with pytest.raises(ValueError, match="fills one gap a text"):
        filler.fill("a[MASK][MASK]")


def test_where_a_text_begins(filler):
    """Behind a prompt or behind a gap it goes on; from a source, or from nothing, it begins."""
    reader, gaps = filler.reader, infilling.gaps_of(filler.model, filler.tokenizer, 32)
    prompts = ["a", "", [1], gaps.read(["a", "b"], 4), gaps.read(["", "b"], 4)]
    assert [reader.starts_text(prompt) for prompt in prompts] == [False, True, True, False, True]
    source = dataclasses.replace(reader, is_source=True)
    assert [source.starts_text(prompt) for prompt in prompts] == [True, True, True, False, True]


def test_text_behind_a_gap_is_no_beginning():
    """A vocabulary that puts a space before a text's first word puts none behind a gap."""

    class Words(WithoutEnd):
        def encode(self, text):
            return self.tokenizer.encode(f" {text}")

    words = Words(tokenizers.build("chars", ["abcdefghij ."]))
    plain = words.tokenizer.encode
    assert infilling.encoded_around(words, ["a b", "c d", ""]) == [
        plain(" a b").tolist(), plain("c d").tolist(), []
    ]  # fmt: skip


@pytest.mark.slow
def test_a_trained_model_fills_what_was_there(tmp_path):
    """The alphabet over and over: only the text behind the gap says where the filling ends."""
    (tmp_path / "text.txt").write_text("abcdefghijklmnopqrstuvwxyz" * 400)
    cfg = config.base()
    cfg.model = config.section(
        "model", "gpt", num_layers=2, d_model=64, num_heads=2, max_len=48, positions="rotary"
    )
    cfg.data = config.section(
        "data", "fim_text", path=str(tmp_path / "text.txt"), tokenizer="chars", fim_rate=0.9
    )
    cfg.optim = config.section("optim", "adamw", learning_rate=3e-3, warmup_steps=20)
    cfg.batch_size, cfg.num_steps, cfg.sample_every = 32, 800, 0
    jaxlm.run(cfg, tmp_path / "run")
    lm = jaxlm.load(tmp_path / "run")
    texts = ["bcdef[MASK]klmno", "tuvwxyzab[MASK]fg", "op[MASK]uvwxyz", "qrs[MASK]tuv"]
    found = lm.fill(texts, temperature=0.0)
    assert [one.fillings[0].text for one in found] == ["ghij", "cde", "qrst", ""]
    assert {one.fillings[0].finish for one in found} == {"end"}
