"""Adapters there and back: a LoRA run's export has the same logits in peft, and a peft folder's import has them here."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.slow

import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from against import assert_same_logits, random_weights  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

import jaxlm  # noqa: E402
from jaxlm import api, config, convert  # noqa: E402
from jaxlm.train import origin, weights  # noqa: E402
from jaxlm.train import workdir as folders  # noqa: E402
from jaxlm.train.checkpoint import Checkpointer  # noqa: E402

VOCAB, LENGTH = 57, 9
SMALL = {"vocab_size": VOCAB, "attn_implementation": "eager"}
LLAMA = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 40,
}
BERT = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "num_labels": 3,
        "pad_token_id": None}  # fmt: skip
T5 = {
    "d_model": 24,
    "num_layers": 2,
    "num_heads": 4,
    "d_kv": 6,
    "d_ff": 40,
    "decoder_start_token_id": 0,
}
FAMILIES = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig(**SMALL, **LLAMA)),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config(**SMALL, n_embd=24, n_layer=2, n_head=4)),
    "bert": (transformers.BertForSequenceClassification, transformers.BertConfig(**SMALL, **BERT)),
    "t5": (transformers.T5ForConditionalGeneration, transformers.T5Config(**SMALL, **T5, feed_forward_proj="gated-gelu")),
}  # fmt: skip
TARGETS = {
    "llama": (("attention/", "mlp/"), ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]),
    "gpt2": (("attention/(q|v)$", "mlp/in$"), ["c_attn", "c_fc"]),
    "bert": (("attention/", "mlp/"), ["intermediate.dense", "output.dense", "self.key", "self.query", "self.value"]),
    "t5": (("attention/(q|v)$", "cross/(q|v)$"), ["q", "v"]),
}  # fmt: skip
RNG = np.random.default_rng(0)
TOKENS, SOURCE = (RNG.integers(1, VOCAB, (2, LENGTH)) for _ in range(2))


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Folders of small random models."""
    made = {}
    for name, (kind, settings) in FAMILIES.items():
        made[name] = tmp_path_factory.mktemp(name)
        random_weights(kind(settings)).save_pretrained(made[name])
    return made


def lora_run(base, workdir, **tuning):
    """A LoRA run as training would leave it: with pairs, and a head, that are no longer as they began."""
    cfg = api.foreign_config(origin.open_source(str(base)))
    cfg.tuning = config.section("tuning", "lora", rank=3, alpha=6.0, **tuning)
    trained, frozen = weights.first(cfg, weights.Split(cfg))
    trained = jax.tree.map(lambda x: x + 0.1 * RNG.standard_normal(x.shape, np.float32), trained)
    path = folders.open_workdir(workdir)
    folders.claim(path, cfg, None)
    saver = Checkpointer(path / folders.CHECKPOINTS)
    saver.save({"params": trained}, {"base": weights.base_digest(frozen)}, 5, blocking=True)
    saver.close()
    return workdir


def our_logits(run, name):
    source = {"source": SOURCE} if name == "t5" else {}
    lm = jaxlm.load(run)
    inputs = {"tokens": np.int32(TOKENS)} | {n: np.int32(x) for n, x in source.items()}
    return np.asarray(lm.model.apply({"params": lm.params}, **inputs).logits())


def their_logits(model, name):
    tokens = torch.tensor(TOKENS)
    ids = (
        {"input_ids": tokens}
        if name != "t5"
        else {"input_ids": torch.tensor(SOURCE), "decoder_input_ids": tokens}
    )
    with torch.no_grad():
        logits = model.eval()(**ids).logits
    return logits[:, None] if name == "bert" else logits


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_adapter_has_the_same_logits_in_peft(name, bases, tmp_path):
    targets, expected = TARGETS[name]
    run = lora_run(bases[name], tmp_path / "run", targets=targets)
    assert convert.main(["export", str(run), str(tmp_path / "adapter"), "--adapter"]) == 0
    facts = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert facts["target_modules"] == expected and facts["r"] == 3
    assert facts["fan_in_fan_out"] == (name == "gpt2")
    assert facts["rank_pattern"] == ({"c_attn": 6} if name == "gpt2" else {})
    kind, _ = FAMILIES[name]
    model = peft.PeftModel.from_pretrained(kind.from_pretrained(bases[name]), tmp_path / "adapter")
    keys = set(peft.get_peft_model_state_dict(model))
    assert keys == set(load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    assert_same_logits(our_logits(run, name), their_logits(model, name))
    assert np.abs(their_logits(model, name) - their_logits(model.unload(), name)).max() > 1e-2

    # The whole model, with the adapter in its kernels.
    assert convert.main(["export", str(run), str(tmp_path / "whole")]) == 0
    whole = kind.from_pretrained(tmp_path / "whole")
    assert_same_logits(our_logits(run, name), their_logits(whole, name))


LORAS = {
    "llama": {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"down_proj": 5}, "alpha_pattern": {"down_proj": 7}},
    "gpt2": {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True},
    "bert": {"target_modules": ["query", "value"], "task_type": "SEQ_CLS", "use_rslora": True},
    "t5": {"target_modules": ["q", "v", "wi_0"], "layers_to_transform": [1]},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_an_imported_adapter_has_pefts_logits(name, bases, tmp_path):
    kind, _ = FAMILIES[name]
    settings = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": None} | LORAS[name])
    model = random_weights(peft.get_peft_model(kind.from_pretrained(bases[name]), settings))
    if name == "bert":  # what is not trained is the base model's
        base = kind.from_pretrained(bases[name]).bert.state_dict()
        kept = {k: base[k.removeprefix("base_model.model.bert.").replace(".base_layer", "")]
                for k in model.state_dict() if ".bert." in k and "lora" not in k}  # fmt: skip
    else:
        base = kind.from_pretrained(bases[name]).state_dict()
        kept = {k: base[k.removeprefix("base_model.model.").replace(".base_layer", "")]
                for k in model.state_dict() if "lora" not in k}  # fmt: skip
    model.load_state_dict(kept, strict=False)
    model.save_pretrained(tmp_path / "adapter")
    line = ["import", str(tmp_path / "adapter"), str(tmp_path / "run")]
    assert convert.main(line) == 0  # adapter_config.json names the base's folder
    assert_same_logits(our_logits(tmp_path / "run", name), their_logits(model, name))

    assert convert.main(["export", str(tmp_path / "run"), str(tmp_path / "back"), "--adapter"]) == 0
    again = peft.PeftModel.from_pretrained(kind.from_pretrained(bases[name]), tmp_path / "back")
    assert_same_logits(our_logits(tmp_path / "run", name), their_logits(again, name))
