"""A Mamba of characters (Gu and Dao 2023, arXiv:2312.00752), 0.7 million parameters.

    python -m jaxlm.launch --config experiments/families/mamba.py

Windows in any order: the parallel scan learns from each by itself. Which scan runs, and why, is said before the first step
(model.scan). `data.kind` "stream_text" would carry its state on.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "rnn",
        cell="mamba",
        num_layers=4,
        d_model=160,
        d_state=8,
    )
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare",
        tokenizer="chars",
        seq_len=128,
        val_fraction=0.1,
        eval_examples=256,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=0.01,
        schedule="cosine",
        warmup_steps=100,
        min_lr_ratio=0.05,
        weight_decay=0.1,
    )
    cfg.batch_size = 32  # 4,096 characters a step
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    return cfg
