"""The decoder of experiments/families/vae.py by itself, without a latent vector: what the latent is measured against.

python -m jaxlm.launch --config experiments/families/vae_decoder.py
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "rnn",
        cell="lstm",
        num_layers=1,
        d_model=64,
        d_hidden=256,
        tie_embeddings=False,
        init_std=0.3,
        max_len=128,
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
        "optim",
        "adamw",
        learning_rate=0.01,
        schedule="cosine",
        warmup_steps=50,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    cfg.batch_size = 32
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    cfg.eval_every = 0
    return cfg
