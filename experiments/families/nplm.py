"""The neural probabilistic language model of Bengio et al. (2003) on characters: the last nine, one tanh layer, a softmax.

    python -m jaxlm.launch --config experiments/families/nplm.py

Half a million parameters. Between an n-gram, whose context it has, and a recurrent network.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "nplm",
        order=10,
        d_model=48,
        d_hidden=768,
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
        weight_decay=0.01,
    )
    cfg.batch_size = 32  # 4,096 characters a step
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    return cfg
