"""A hidden Markov model whose tables a network makes of embeddings (Chiu and Rush 2020, arXiv:2011.04640); by gradient.

python -m jaxlm.launch --config experiments/families/hmm_neural.py
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model", "hmm", num_states=128, parameters="neural", d_model=128, num_layers=2
    )
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
        "optim", "adamw", learning_rate=3e-3, schedule="cosine", warmup_steps=50, weight_decay=0.0
    )
    cfg.batch_size = 32
    cfg.num_steps = 1000
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 500
    return cfg
