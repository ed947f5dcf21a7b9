"""GPT-2 small, 124M parameters, 1,024 tokens of context, GPT-2's own BPE (Radford et al. 2019).

    python -m jaxlm.launch --config experiments/gpt_small.py            bundled English texts, offline
    python -m jaxlm.launch --config experiments/gpt_small.py:packed     the same, documents kept apart
    python -m jaxlm.launch --config experiments/gpt_small.py:fineweb    FineWeb-Edu 10BT, from Hugging Face
    python -m jaxlm.launch --config experiments/gpt_small.py:c4         C4, from TFDS

The bundled 2 million tokens are enough to see the real step work, not to train a model of this size: ten epochs of
them here. `:fineweb` and `:c4` train on 10 billion tokens, as llm.c does. The micro-batch is chosen for the device's memory at a
fixed number of tokens a step.

Documents are not masked from one another: a window is a cut of the text in which they follow one another, as in nanoGPT
and llm.c; published speeds are of that. `:packed` packs whole documents into windows in which none sees another; in an
experiment of your own, that is config.section("data", "packed_text", ...).
Measured: docs/benchmarks.md.
"""

from jaxlm import config

BUNDLED = "bundled:shakespeare,bundled:speeches,bundled:technical"
SOURCES = {
    "": BUNDLED,
    "packed": BUNDLED,
    "fineweb": "hf:HuggingFaceFW/fineweb-edu:sample-10BT",
    "c4": "tfds:c4/en:text",
}


def get_config(variant=""):
    config.check_variant(variant, SOURCES)
    cfg = config.base()
    cfg.model = config.section(
        "model", "gpt", num_layers=12, d_model=768, num_heads=12, max_len=1024
    )
    kind = "packed_text" if variant == "packed" else "text"
    cfg.data = config.section(
        "data", kind, path=SOURCES[variant], tokenizer="gpt2", eval_examples=64
    )
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=6e-4, warmup_steps=50, weight_decay=0.1, b2=0.95
    )
    cfg.batch_size = 64  # 65,536 tokens a step
    cfg.num_steps = 300
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 100
    if variant in ("fineweb", "c4"):
        cfg.batch_size = 512  # 524,288 tokens a step
        cfg.num_steps = 19_073  # 10 billion tokens
        cfg.optim.warmup_steps = 700
        cfg.data.val_fraction = 0.0005
        cfg.data.eval_examples = 1024
        cfg.log_every = 10
        cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 1000
    return cfg
