"""A small character GPT, from text to samples in about a minute or two on two CPU cores.

    python -m jaxlm.launch --config experiments/quickstart.py
    python -m jaxlm.launch --config experiments/quickstart.py --config.data.path=my_own.txt
    python -m jaxlm.launch --config experiments/quickstart.py:long      2.5 times the steps, a better model

Rotary positions, RMSNorm, ReLU², query-key norm and blocks that start as the identity; Muon for the matrices and Adam for
the rest (Jordan et al. 2024), linear decay to zero. Measured: docs/benchmarks.md.
"""

from jaxlm import config

STEPS = {"": 800, "long": 2000}


def get_config(variant=""):
    config.check_variant(variant, STEPS)
    cfg = config.base()
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
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="chars")
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
    cfg.num_steps = STEPS[variant]
    cfg.log_every = 20
    cfg.eval_every = 400
    cfg.checkpoint_every = 400
    cfg.sample_every = 400
    cfg.sample_tokens = 300
    return cfg
