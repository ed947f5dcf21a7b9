"""The tables of experiments/families/hmm.py, learned by gradient.

python -m jaxlm.launch --config experiments/families/hmm_gradient.py
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "hmm", num_states=64)
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare",
        tokenizer="chars",
        val_fraction=0.1,
        seq_len=128,
        eval_examples=256,
    )
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=0.05, schedule="cosine", warmup_steps=20, weight_decay=0.0
    )
    cfg.batch_size = 32
    cfg.num_steps = 1000
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 500
    return cfg
