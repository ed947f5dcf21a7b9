"""A GPT of 124M parameters that fills gaps: fill-in-the-middle (Bavarian et al. 2022, arXiv:2207.14255).

    python -m jaxlm.launch --config experiments/infill_gpt.py          bundled English texts, offline
    python -m jaxlm.launch --config experiments/infill_gpt.py:tiny     characters: two cores, under 3 minutes
    python -m jaxlm.generate --workdir DIR --infill --prompt "The [MASK] sat on the mat."

Nine windows in ten hold pieces of text cut in three, whose middle is told last; the model and the loss are a plain GPT's, and
it writes from left to right as one. `val_bits_per_byte` is that of the middles, the <eos> that ends each included.
Measured: docs/families.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=12,
        d_model=768,
        num_heads=12,
        d_ff=2048,
        positions="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        bias=False,
        max_len=1024,
    )
    cfg.data = config.section(
        "data",
        "fim_text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="gpt2",
        fim_rate=0.9,
        eval_examples=128,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=6e-4,
        schedule="cosine",
        warmup_steps=100,
        min_lr_ratio=0.1,
        weight_decay=0.1,
    )
    cfg.batch_size = 64  # 65,536 tokens a step
    cfg.num_steps = 600
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    return cfg


def tiny(cfg):
    """The quickstart's model and optimizer on a file of a million characters."""
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=4,
        d_model=128,
        num_heads=2,
        max_len=128,
        positions="rotary",
        norm="rmsnorm",
        norm_gains=False,
        mlp="relu2",
        bias=False,
        qk_norm=True,
        embedding_norm=True,
        tie_embeddings=False,
        init="zero_out",
    )
    cfg.data = config.section(
        "data",
        "fim_text",
        path="bundled:shakespeare",
        tokenizer="chars",
        fim_rate=0.9,
        spm_rate=1.0,
        eval_examples=256,
    )
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=0.01,
        schedule="linear",
        warmup_steps=15,
        min_lr_ratio=0.0,
        weight_decay=0.1,
        clip_norm=0.0,
        eps=1e-10,
    )
    cfg.step = config.section("step", "gradient", ema_decay=0.99)
    cfg.batch_size = 16  # 2,048 characters a step
    cfg.num_steps = 1000
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 500
    return cfg
