"""The Transformer of 2017, English to German (Vaswani et al., Attention Is All You Need, arXiv:1706.03762).

python -m jaxlm.launch --config experiments/transformer_translate.py
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq", label_smoothing=0.1)
    cfg.evaluators = ("perplexity", "translation")
    cfg.model = config.section(
        "model",
        "encoder_decoder",
        num_layers=3,
        d_model=256,
        num_heads=4,
        d_ff=1024,
        post_norm=False,
        max_len=144,
    )
    cfg.data = config.section(
        "data",
        "packed_pairs",
        path="bundled:en-de",
        tokenizer="bpe:4000",
        source_len=128,
        target_len=144,
        val_fraction=0.05,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=2e-3,
        schedule="inverse_sqrt",
        warmup_steps=400,
        weight_decay=0.0,
        b2=0.98,
        eps=1e-9,
    )
    cfg.step.ema_decay = 0.998  # in place of the mean of the last checkpoints
    if variant == "tiny":
        return tiny(cfg)
    cfg.batch_size = 16
    cfg.num_steps = 2000
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 1000
    return cfg


def tiny(cfg):
    """Narrower, two layers, half the length, a smaller vocabulary; without dropout, as nothing is seen more than twice."""
    for key, value in (("num_layers", 2), ("d_model", 128), ("d_ff", 512), ("dropout", 0.0)):
        cfg.model[key] = value
    cfg.data.tokenizer = "bpe:2000"
    cfg.data.source_len, cfg.data.target_len, cfg.data.eval_examples = 64, 72, 200
    cfg.optim.learning_rate, cfg.optim.warmup_steps = 3e-3, 100
    cfg.step.ema_decay = 0.98
    cfg.batch_size = 32  # 4,352 tokens a step
    cfg.num_steps = 500
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 250
    return cfg
