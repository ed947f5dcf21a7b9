"""Texts of images: from Python, from the command line, and a whole run that learns to name digits."""

import json
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxlm import api, config, generate
from jaxlm.data import bundled, tokenizers
from jaxlm.decode.texts import Text
from jaxlm.language_model import LanguageModel
from jaxlm.train import assembly

REPO = Path(__file__).resolve().parent.parent
IMAGES = np.random.default_rng(0).random((3, 4, 4, 1), np.float32)


def make(kind="vlm", **fields):
    cfg = config.base()
    fields |= {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 40, "vocab_size": 257}
    cfg.model = config.section("model", kind, **fields)
    if kind == "vlm":
        cfg.data = config.section("data", "captions", image_size=4, pixel_max=10)
        cfg.objective = config.section("objective", "image_to_text")
    model = assembly.make_model(cfg)
    shapes = assembly.model_shapes(cfg)
    draw = np.random.default_rng(1)
    params = jax.tree.map(lambda x: draw.normal(0, 0.5, x.shape).astype(x.dtype), nn.unbox(shapes))
    return LanguageModel(model, params, tokenizers.build("bytes"), cfg, 0)


@pytest.fixture(scope="module")
def lm():
    return make(image_size=4, patch_size=2, num_channels=1)


def test_images_and_prompts_that_do_not_go_together_are_refused(lm):
    for images, prompts, message in (
        (None, "", "images: VLM writes from images"),
        (IMAGES, ["a", "b"], "images: 3 for 2 prompts"),
        (np.zeros((5, 4)), "", "images: 5 x 4, expected images of 4 x 4 x 1"),
        (255 * np.ones((4, 4)), "", "images: values from 255.0 to 255.0 .*, expected 0..1"),
    ):
        with pytest.raises(ValueError, match=message):
            lm.write(prompts, images=images)
    with pytest.raises(ValueError, match="images: GPT reads no images"):
        make("gpt").write("a", images=IMAGES)
    with pytest.raises(
        ValueError, match=r"draft: it reads \('tokens',\), not \('tokens', 'image'\)"
    ):
        lm.write("", images=IMAGES, draft=make("gpt"))
    with pytest.raises(ValueError, match="VLM reads an image with its tokens: none is given"):
        lm.logits([[1, 2]])
    assert lm.max_len == 40 - 4  # of tokens


@pytest.mark.slow
def test_a_text_goes_on_behind_its_prompt_and_is_its_own_images(lm):
    """Against the argmax of whole forward passes."""

    @jax.jit
    def forward(tokens, image):
        return lm.model.apply({"params": lm.params}, tokens, image).logits()

    def likeliest(prompt, image):
        tokens = np.zeros((1, 12), np.int32)
        tokens[0, 1 : 1 + len(prompt)] = list(prompt.encode())
        for place in range(len(prompt), len(prompt) + 6):
            tokens[0, place + 1] = forward(tokens, image[None])[0, place].argmax()
        return tokens[0, len(prompt) + 1 : len(prompt) + 7].tolist()

    prompts, options = ["", "ab", "c"], {"temperature": 0.0, "max_tokens": 6}
    found = lm.write(prompts, images=IMAGES, **options)
    for prompt, image, (text,) in zip(prompts, IMAGES, found, strict=True):
        assert text.tokens == likeliest(prompt, image)[: len(text.tokens)]
        assert text.finish == "length" or len(text.tokens) < 6
    drafted = lm.write(prompts, images=IMAGES, draft=lm, num_draft=2, **options)
    assert [one[0].tokens for one in drafted] == [one[0].tokens for one in found]
    assert lm.generate("", images=IMAGES[0], **options) == [found[0][0].text]
    several = lm.generate("", images=IMAGES[..., 0], **options)  # a channel less, a prompt for all
    assert len(several) == 3 and several[0] == found[0][0].text


def test_the_command_line_writes_a_text_for_every_image_of_a_file(
    lm, tmp_path, monkeypatch, capsys
):
    seen = []

    def write(self, prompts, *, images, **asked):
        seen.append((prompts, images.shape, asked["seed"]))
        return [[Text(f"{image.sum():.1f}", [1], "end", 0.0)] for image in images]

    monkeypatch.setattr(LanguageModel, "write", write)
    monkeypatch.setattr(api, "load", lambda path, best: lm)
    lines = tmp_path / "some.jsonl"
    lines.write_text("".join(f'{{"pixels": {[n] * 16}}}\n' for n in range(3)))

    def run(*arguments):
        code = generate.main(["--workdir", "DIR", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, [json.loads(line)["text"] for line in out.splitlines()], err.splitlines()[0]

    monkeypatch.setattr(generate, "GROUP", 2)
    code, texts, _ = run("--image", lines, "--batch_size", 1, "--seed", 5)
    assert (code, texts) == (0, ["0.0", "1.6", "3.2"])
    assert seen == [(["", ""], (2, 4, 4, 1), 5), ([""], (1, 4, 4, 1), 7)]
    np.save(tmp_path / "one.npy", np.full((4, 4), 5))
    assert run("--image", tmp_path / "one.npy", "--prompt", "a")[1] == ["8.0"]
    np.save(tmp_path / "bad.npy", np.zeros((4, 5)))
    code, _, error = run("--image", tmp_path / "bad.npy")
    assert code == 2 and error.endswith(
        "bad.npy: 4 x 5, expected images of 4 x 4 x 1 (one, or N of them)"
    )
    monkeypatch.setattr(api, "load", lambda path, best: make("gpt"))
    error = run("--image", lines)[2]
    assert error.endswith('the model was trained on no images (data.kind="text")')


@pytest.mark.slow
def test_a_small_run_names_digits_that_it_has_not_seen(run_cli, tmp_path):
    spec = f"{REPO / 'experiments' / 'vlm_digits.py'}:tiny"
    run_cli("launch", "--config", spec, "--workdir", "run", check=True, timeout=900)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["exact_match"] >= 0.95
    samples = (tmp_path / "run/samples.txt").read_text()
    assert "target      'a handwritten digit nine'" in samples and "@@" in samples
    lines = bundled.read("digits").decode().splitlines()[-40:]
    (tmp_path / "last.jsonl").write_text("\n".join(lines))
    command = ["--workdir", "run", "--image", "last.jsonl", "--temperature", 0]
    written = run_cli("generate", *command, check=True).stdout.splitlines()
    right = [
        json.loads(a)["text"] == json.loads(b)["caption"]
        for a, b in zip(written, lines, strict=True)
    ]
    assert sum(right) >= 36
    wrong = run_cli("launch", "--config", spec, "--config.model.image_size=4", "--workdir", "other")
    assert wrong.returncode == 2 and len(wrong.stderr.splitlines()) == 1
    assert "images are 8 x 8 x 1" in wrong.stderr and not (tmp_path / "other/config.json").exists()
