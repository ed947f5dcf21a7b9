"""GGUF: the same weights as a Hugging Face folder give the same logits, in every type; what is not read is named."""

import gguf
import numpy as np
import pytest
import stored
from gguf import GGMLQuantizationType as Type
from gguf import quants

import jaxlm
from jaxlm import convert, interop

NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
    **{f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"},
    **{f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")},
    "model.layers.": "blk.",
}  # fmt: skip


def their_name(name):
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name


def neighbours(rows, heads):
    """Rows as llama.cpp keeps them: rotary pairs beside each other, head by head."""
    width = rows.shape[0] // heads
    order = [head * width + half * width // 2 + i
             for head in range(heads) for i in range(width // 2) for half in (0, 1)]  # fmt: skip
    return rows[order]


def write(path, kinds=Type.F32, pre="gpt-2", arrays=None, eos=0, chat_template=None, **meta):
    """A .gguf of the small Llama, and the float32 tensors that it stands for under Llama's names."""
    arrays = stored.llama_tensors() if arrays is None else arrays
    writer = gguf.GGUFWriter(path, meta.pop("architecture", "llama"))
    values = {
        "block_count": 2, "context_length": 32, "embedding_length": 32, "feed_forward_length": 64,
        "attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8,
    }  # fmt: skip
    for name, value in (values | meta).items():
        writer.add_uint32(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    tokens = ["<end>", "a", "b", "c", "Ġ", "ab", "Ġa", *"defgh", *"0123456789", "bab"]
    tokens += [f"<{i}>" for i in range(40 - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * 39)
    writer.add_token_merges(["a b", "Ġ a"])
    writer.add_eos_token_id(eos)
    writer.add_bos_token_id(1)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
        writer.add_eot_token_id(39)
    stands_for = {}
    for name, array in arrays.items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        rows = array if heads is None else neighbours(array, heads)
        kind = kinds if array.ndim == 2 else Type.F32
        held = quants.quantize(rows, kind)
        writer.add_tensor(their_name(name), held, raw_dtype=kind)
        back = (
            held.astype(np.float32)
            if kind in (Type.F32, Type.F16)
            else quants.dequantize(held, kind)
        )
        if heads is not None:  # a copy in the order of rotary halves
            again = np.empty_like(back)
            again[neighbours(np.arange(len(back)), heads)] = back
            back = again
        stands_for[name] = back
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stands_for


CONFIG = stored.LLAMA | {"intermediate_size": 64}
ARRAYS = stored.llama_tensors(config=CONFIG)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q8_0, Type.Q4_0, Type.Q4_1])
def test_every_type_gives_the_tensors_that_it_stands_for(tmp_path, kind):
    expected = write(tmp_path / "m.gguf", kind, arrays=ARRAYS)
    source = interop.open_source(tmp_path / "m.gguf")
    assert set(source.tensors.shapes) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(source.tensors.read(name), array, err_msg=name)
    spread = np.abs(expected["lm_head.weight"] - ARRAYS["lm_head.weight"]).max()
    assert spread < {Type.F32: 1e-9, Type.F16: 1e-3, Type.Q8_0: 0.005}.get(kind, 0.05)


def test_logits_are_those_of_the_same_weights_in_a_folder(tmp_path):
    expected = write(tmp_path / "m.gguf", Type.Q8_0, arrays=ARRAYS)
    folder = stored.write(tmp_path / "hf", CONFIG, expected)
    tokens = np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    ours = jaxlm.load(tmp_path / "m.gguf")
    np.testing.assert_array_equal(ours.logits(tokens), jaxlm.load(folder).logits(tokens))
    assert ours.model.config.num_kv_heads == 2 and ours.model.config.norm_eps == 1e-6
    assert not ours.model.config.tie_embeddings
    assert convert.main(["import", str(tmp_path / "m.gguf"), str(tmp_path / "run")]) == 0
    assert convert.main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    np.testing.assert_array_equal(jaxlm.load(tmp_path / "out").logits(tokens), ours.logits(tokens))


def test_the_vocabulary_by_hand(tmp_path):
    write(tmp_path / "m.gguf", pre="smollm", arrays=ARRAYS)
    tokenizer = jaxlm.load(tmp_path / "m.gguf").tokenizer
    assert tokenizer.encode("ab a").tolist() == [5, 6]  # ab | Ġa
    assert tokenizer.encode(" abc").tolist() == [4, 5, 3]  # the first merge first: Ġ ab c
    assert tokenizer.encode("12").tolist() == [13, 14]
    assert tokenizer.decode([5, 6, 3]) == "ab ac" and tokenizer.eos_id == 0


def test_pretokenizers_cut_as_their_models_do(tmp_path):
    """gpt-2 keeps a number whole, smollm cuts each digit, llama-bpe cuts three at a time."""
    cuts = {}
    for pre in ("gpt-2", "smollm", "llama-bpe"):
        write(tmp_path / "m.gguf", pre=pre, arrays=ARRAYS)
        data = interop.open_source(tmp_path / "m.gguf").tokenizer["tokenizer.json"]
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(data.decode())
        cuts[pre] = [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a 12345")]
        begin = [1] if pre == "llama-bpe" else []  # whose texts start with <|begin_of_text|>
        assert tokenizer.encode("c").ids == [*begin, 3]
        whole = [22] if pre == "llama-bpe" else [2, 5]  # a word of the vocabulary needs no merges
        assert tokenizer.encode("bab").ids == [*begin, *whole]
    assert cuts["gpt-2"] == ["a", "Ġ12345"]
    assert cuts["smollm"] == ["a", "Ġ", "1", "2", "3", "4", "5"]
    assert cuts["llama-bpe"] == ["a", "Ġ", "123", "45"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"kinds": Type.Q5_0}, "token_embd.weight is of type Q5_0; accepted are F32, F16, Q8_0, Q4_0, Q4_1"),
        ({"architecture": "lama"}, 'architecture \'lama\' is not known (did you mean "llama"?)'),
        ({"rope.dimension_count": 4}, "llama.rope.dimension_count=4 of 8"),
        ({"rope.scale_linear": 4}, "llama.rope.scale_linear=4 can't be represented"),
        ({"attention.head_count": 0}, "its layers differ in shape or have none"),
        ({"eos": 99}, "tokenizer.ggml.eos_token_id=99, but it has 40 tokens"),
        ({"block_count": 3}, "9 missing (model.layers.2.input_layernorm.weight"),
        ({"block_count": 1}, "9 left over (model.layers.1.input_layernorm.weight"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_one_line_and_exit_code_2(tmp_path, capsys, how, message):
    write(tmp_path / "m.gguf", **{"arrays": ARRAYS} | how)
    assert convert.main(["import", str(tmp_path / "m.gguf"), str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize("cut", [0, 10, 1000, -1, -5000])
def test_a_torn_file_is_named(tmp_path, cut):
    write(tmp_path / "m.gguf", arrays=ARRAYS)
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "torn.gguf").write_bytes(whole[:cut])
    with pytest.raises(ValueError, match="torn.gguf is truncated or no GGUF file"):
        interop.open_source(tmp_path / "torn.gguf")


def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    with pytest.raises(ValueError, match=r'needs the gguf package: pip install "jaxlm\[hf\]"'):
        interop.open_source(tmp_path / "m.gguf")


def test_a_factor_without_a_type_is_linear_as_in_llama_cpp(tmp_path):
    write(tmp_path / "m.gguf", arrays=ARRAYS, **{"rope.scaling.factor": 2})
    fields = interop.open_source(tmp_path / "m.gguf").fields
    assert (fields["rope_scaling"], fields["rope_factor"]) == ("linear", 2.0)


def test_a_chat_template_goes_with_the_model(tmp_path, capsys):
    """From the file to a run, and from there to a folder that transformers reads."""
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    write(tmp_path / "m.gguf", arrays=ARRAYS, chat_template=template)
    for name, place in (("import", "run"), ("export", "folder")):
        source = "m.gguf" if name == "import" else "run"
        assert convert.main([name, str(tmp_path / source), str(tmp_path / place)]) == 0
    for place in ("m.gguf", "run", "folder"):
        lm = jaxlm.load(tmp_path / place)
        assert lm.chat_template.source == template, place
        assert lm.chat_template.tokens["bos_token"] == "a"
        assert lm.chat_ids([{"role": "user", "content": "bab<end>"}])[-1] == 0, place
        assert sorted({lm.tokenizer.eos_id, *lm.end_ids}) == [0, 39], place
