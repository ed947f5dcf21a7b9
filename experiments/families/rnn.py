"""A plain recurrent network of characters, 0.6 million parameters (Elman 1990; Mikolov et al. 2010).

    python -m jaxlm.launch --config experiments/families/rnn.py

Truncated back-propagation: each row of a batch goes on where it ended in the batch before, state and all, and gradients
reach back 128 characters. `--config.data.carry=false` begins every window anew.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "rnn",
        cell="rnn",
        num_layers=2,
        d_model=384,
    )
    cfg.data = config.section(
        "data",
        "stream_text",
        path="bundled:shakespeare",
        tokenizer="chars",
        seq_len=128,
        val_fraction=0.1,
        eval_examples=256,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=0.003,
        schedule="cosine",
        warmup_steps=100,
        min_lr_ratio=0.05,
        weight_decay=0.0,
    )
    cfg.batch_size = 32  # 4,096 characters a step
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    return cfg
