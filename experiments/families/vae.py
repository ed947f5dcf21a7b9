"""A variational auto-encoder of windows of characters (Bowman et al. 2016, arXiv:1511.06349); an LSTM reads, another one writes.

    python -m jaxlm.launch --config experiments/families/vae.py --workdir runs/vae
    python -m jaxlm.interpolate --workdir runs/vae --first "He was silent." --second "Where is the king?"

Its bits per byte are an upper bound of the true ones: `iw_bits_per_byte` is a tighter one, of 50 draws a text. `active_units` and
the difference of `shuffled_nll` from `nll` say whether the latent is used. The decoder alone: experiments/families/vae_decoder.py.
With beta=1 the divergence falls to what free bits allow; at 0.3 it pays, at a little of the bound (objective.beta, objective.free_bits).

Reached after 2 million characters (2026-11-23, jax 0.10.2, two CPU cores, busy machine): 2.477 ± 0.017 bits a byte at most, 2.443 ± 0.017 by
50 draws; 7.79 ± 0.08 nats a text, 1.6 of them free, all 16 dimensions active; 1.656 nats a character under a text's own z, 1.711 under
another's. The decoder alone: 2.345 ± 0.018.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "vae",
        d_model=64,
        d_hidden=256,
        d_encoder=256,
        d_latent=16,
        init_std=0.3,
        max_len=128,
    )
    cfg.objective = config.section(
        "objective", "elbo", beta=0.3, kl_warmup_fraction=0.5, free_bits=0.1
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
    cfg.evaluators = ("perplexity", "latent", "iw_bound")
    cfg.batch_size = 32
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    cfg.eval_every = 0  # at the end
    return cfg
