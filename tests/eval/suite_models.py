"""Models for tests of suites: small real ones, and one that answers as it is told."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlm import config
from jaxlm.data import tokenizers
from jaxlm.eval.likelihood import Likelihood
from jaxlm.language_model import LanguageModel
from jaxlm.train import assembly

SMALL = {"num_layers": 1, "d_model": 16, "num_heads": 2, "max_len": 32}


@functools.cache
def small() -> LanguageModel:
    """The model that tests share, so that it is compiled once; 32 positions."""
    return made(**SMALL)


def made(kind: str = "gpt", tokenizer: Any = None, seq_len: int = 32, **fields) -> LanguageModel:
    """A model with random weights."""
    cfg = config.base()
    tokenizer = tokenizer or tokenizers.build("bytes")
    cfg.model = config.section("model", kind, vocab_size=tokenizer.vocab_size, **fields)
    cfg.data = config.section("data", "text", seq_len=seq_len)
    model = assembly.make_model(cfg)
    inputs = {name: jnp.zeros((1, 1), jnp.int32) for name in model.inputs}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), **inputs))["params"]
    return LanguageModel(model, params, tokenizer, cfg, 0)


class FakeModel(NamedTuple):
    direction: str = "causal"
    inputs: tuple[str, ...] = ("tokens",)


class Told:
    """Writes what `answers` says of a prompt's last question; finds texts as likely as `likelihood` says."""

    def __init__(self, answers=lambda prompt: "", likelihood=lambda text: 0.0, max_len=4096):
        self.model, self.tokenizer, self.max_len = FakeModel(), tokenizers.build("bytes"), max_len
        self.answers, self.likelihood = answers, likelihood
        self.prompts: list[str] = []

    def generate(self, prompts, **settings):
        self.prompts += prompts
        self.settings = settings
        return [self.answers(prompt) for prompt in prompts]

    def loglikelihoods(self, pairs, batch_size):
        self.prompts += [context for context, _ in pairs]
        return [
            Likelihood(total, False, [total / len(text)] * len(text))
            for text in (continuation for _, continuation in pairs)
            for total in [self.likelihood(text)]
        ]

    def rolling(self, texts, **_):
        return [Likelihood(-1.0 * len(text), False, [-1.0] * len(text)) for text in texts]

    @property
    def begin_id(self):
        return self.tokenizer.eos_id
