"""docs/interop.md: its four commands run in order, shrunken, on a small BERT; its table is what the code leaves out."""

import re
import shlex
from pathlib import Path

import pytest
import stored

import jaxlm
from jaxlm import convert, launch
from jaxlm.interop import huggingface

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "docs" / "interop.md").read_text(encoding="utf-8")
SHRINK = [
    "--config.data.path=few.tsv", "--config.data.min_count=1", "--config.data.seq_len=12", "--config.num_steps=1",
    "--config.batch_size=8", "--config.micro_batch_size=8", "--config.sample_tokens=0",
]  # fmt: skip
WORDS = ["<s>", "</s>", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *stored.WORDS[2:], *"01234"]


def commands():
    block = re.search(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[1]
    return block.strip().splitlines()


@pytest.mark.slow
def test_an_import_a_fine_tuning_and_an_export_in_four_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    stored.write(Path("my-bert"), stored.bert_config(), stored.bert_tensors(), WORDS)
    (tmp_path / "experiments").symlink_to(REPO / "experiments")
    lines = [f"{word} is it\t{label}\n" for label, word in (("x", "cat"), ("y", "dog"))]
    Path("few.tsv").write_text("".join(lines) * 40)
    assert len(commands()) == 4
    for command in commands():
        words = shlex.split(command)
        if words[:2] == ["python", "-c"]:
            exec(words[2], {})
        elif words[:3] == ["python", "-m", "jaxlm.convert"]:
            assert convert.main(words[3:]) == 0, capsys.readouterr().err
        else:
            assert words[:3] == ["python", "-m", "jaxlm.launch"]
            assert launch.main([*words[3:], *SHRINK]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "weights    23 parameters from runs/my-bert" in said
    assert "fresh      not in it, so drawn by the seed: classifier/bias, classifier/kernel" in said
    assert re.search(r"\[\[\[-?\d.*-?\d.*\]\]\]", said)  # two classes of one text
    assert jaxlm.load("runs/sections").labels == jaxlm.load("my-classifier").labels == ("x", "y")


def test_every_name_that_is_ignored_stands_in_the_table():
    examples = {
        "GPT-2": ["h.0.attn.bias", "transformer.h.11.attn.masked_bias", "lm_head.weight"],
        "Llama": ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"],
        "BERT": ["embeddings.position_ids", "bert.embeddings.token_type_ids", "cls.predictions.decoder.weight",
                 "cls.predictions.decoder.bias"],
        "T5": ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight",
               "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"],
    }  # fmt: skip
    for family in huggingface.FAMILIES:
        for pattern in family.IGNORED:
            assert any(re.search(pattern, name) for name in examples[family.NAME]), pattern
        for name in examples[family.NAME]:
            assert any(re.search(pattern, name) for pattern in family.IGNORED), name
            assert name.split(".")[-2 if name.endswith(("weight", "bias")) else -1] in PAGE
    for family in huggingface.FAMILIES:
        for model_type in family.MODEL_TYPES:
            assert f"`{model_type}`" in PAGE
