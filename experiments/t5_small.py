"""T5 1.1 small, about 77M parameters with T5's vocabulary: span corruption (Raffel et al. 2020, arXiv:1910.10683).

    python -m jaxlm.launch --config experiments/t5_small.py          bundled English texts, offline
    python -m jaxlm.launch --config experiments/t5_small.py:tiny     bytes: two cores, under 3 minutes

The encoder reads 512 tokens with gaps, the decoder writes the 114 that fill them. Tokens are GPT-2's BPE with 100 sentinels
behind its own ids, instead of T5's SentencePiece. At sample points, what the model writes for some validation sources is in
samples.txt. The bundled 2 million tokens are enough to see the real step work, not to train a model of this size.
Measured: docs/benchmarks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq")
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model",
        "t5",
        num_layers=8,
        d_model=512,
        num_heads=6,
        head_dim=64,
        d_ff=1024,
        mlp="geglu",
        tie_embeddings=False,
        max_len=512,
    )
    cfg.data = config.section(
        "data",
        "span_text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="gpt2",
        eval_examples=128,
    )
    cfg.optim = config.section(
        "optim", "adafactor", learning_rate=1e-2, schedule="inverse_sqrt", warmup_steps=100
    )
    cfg.batch_size = 64  # 40,064 tokens a step
    cfg.num_steps = 600
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    return cfg


def tiny(cfg):
    """The same blocks, small, on bytes; half of the text hidden, in gaps of 16 bytes, as UL2's X-denoiser (Tay et al. 2022)."""
    cfg.model = config.section(
        "model",
        "t5",
        num_layers=2,
        d_model=128,
        num_heads=4,
        d_ff=256,
        mlp="geglu",
        tie_embeddings=False,
        max_len=128,
    )
    cfg.data = config.section(
        "data",
        "span_text",
        path="bundled:shakespeare",
        tokenizer="bytes",
        noise_density=0.5,
        mean_span=16.0,
    )
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=3e-2,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
        weight_decay=0.01,
    )
    cfg.batch_size = 16  # 4,112 bytes a step, 2,064 of them targets
    cfg.num_steps = 600
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 300
    return cfg
