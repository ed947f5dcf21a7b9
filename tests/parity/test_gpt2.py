"""GPT-2 against transformers: logits and gradients, with padding and odd sizes; and there and back."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

import safetensors.torch  # noqa: E402
import stored  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from against import assert_decoder_parity, assert_same_logits, random_weights  # noqa: E402

import jaxlm  # noqa: E402
from jaxlm import convert  # noqa: E402
from jaxlm.interop import huggingface, mapping  # noqa: E402
from jaxlm.models.gpt import GPTConfig  # noqa: E402

CASES = {
    "tied": {},
    "untied": {"tie_word_embeddings": False},
    "exact gelu and a width of its own": {"activation_function": "gelu", "n_inner": 50},
}


@pytest.mark.parametrize("name", CASES)
def test_logits_gradients_and_export(tmp_path, name):
    config = transformers.GPT2Config(
        vocab_size=57, n_positions=16, n_embd=21, n_layer=2, n_head=3, **CASES[name]
    )
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = random_weights(transformers.GPT2LMHeadModel(config))
    assert_decoder_parity(theirs, tmp_path)


def test_a_file_without_prefix_and_with_masks_as_the_first_gpt2_was_stored(tmp_path):
    """`wte.weight`, `h.0.attn.bias`: the names of the published file."""
    config = transformers.GPT2Config(vocab_size=57, n_positions=16, n_embd=18, n_layer=1, n_head=3)
    theirs = random_weights(transformers.GPT2LMHeadModel(config))
    bare = {n.removeprefix("transformer."): t for n, t in theirs.state_dict().items()}
    bare["h.0.attn.bias"] = torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16)
    theirs.config.save_pretrained(tmp_path)
    safetensors.torch.save_file(
        {n: t.clone() for n, t in bare.items()}, tmp_path / "model.safetensors"
    )
    source = huggingface.open_folder(tmp_path)
    matched = mapping.match(source.family, GPTConfig(**source.fields), source.tensors)
    assert matched.names["embed/embedding"] == "wte.weight" and not matched.fresh


@pytest.mark.parametrize("tokenizer", ["bytes", "gpt2"])
def test_a_run_of_our_own_is_loaded_by_transformers_with_its_tokenizer(tmp_path, tokenizer):
    run = stored.make_run(
        tmp_path / "run", tokenizer, num_layers=2, d_model=24, num_heads=3, max_len=32
    )
    assert convert.main(["export", str(run), str(tmp_path / "hf")]) == 0
    lm = jaxlm.load(run)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    text = "Ünder the bridge, 12 geese.\n"
    tokens = lm.tokenizer.encode(text)
    assert theirs(text)["input_ids"] == tokens.tolist() and theirs.decode(tokens) == text
    assert theirs.eos_token_id == model.config.eos_token_id == lm.tokenizer.eos_id
    expected = model(torch.tensor(tokens[None]).long()).logits
    assert_same_logits(lm.logits(tokens[None]), expected)
