"""A small decoder-only transformer (Vaswani et al. 2017; Radford et al. 2019) of characters.

    python -m jaxlm.launch --config experiments/families/transformer.py

The quickstart's model and optimizer, on five million characters.
"""

from jaxlm import config


def get_config():
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
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare",
        tokenizer="chars",
        seq_len=128,
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
    cfg.batch_size = 16
    cfg.num_steps = 2441  # 5 million characters
    cfg.log_every = 50
    return cfg
