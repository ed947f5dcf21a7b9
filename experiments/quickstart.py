"""A small character GPT, from text to samples in about a minute or two on two CPU cores.

    python -m jaxlm.launch --config experiments/quickstart.py
    python -m jaxlm.launch --config experiments/quickstart.py --config.data.path=my_own.txt

Rotary positions, RMSNorm, ReLU², query-key norm and blocks that start as the identity; Muon for the matrices and Adam for
the rest (Jordan et al. 2024), linear decay to zero. Measured: docs/benchmarks.md.
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
        mlp="relu2",
        bias=False,
        qk_norm=True,
        embedding_norm=True,
        tie_embeddings=False,
        init="zero_out",
    )
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="chars")
    cfg.data.seq_len = cfg.model.get_ref("max_len")
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=0.01,
        schedule="linear",
        warmup_steps=15,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
        eps=1e-10,
    )
    cfg.batch_size = 16  # 2,048 characters a step
    cfg.num_steps = 750
    cfg.log_every = 50
    cfg.eval_every = 0
    cfg.checkpoint_every = 250
    cfg.sample_every = 250
    cfg.sample_tokens = 300
    return cfg
