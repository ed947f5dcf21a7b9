"""BERT base, about 110M parameters: masked language modelling, 80/10/10 (Devlin et al. 2019, arXiv:1810.04805).

    python -m jaxlm.launch --config experiments/bert_base.py          bundled English texts, offline
    python -m jaxlm.launch --config experiments/bert_base.py:tiny     characters: two cores, under 3 minutes

Tokens are GPT-2's BPE with [MASK] behind its own ids, instead of WordPiece, and there is no next-sentence pair. At the last
step of a `sample` the model's guesses at the hidden tokens of some validation windows are in samples.txt. The bundled
2 million tokens are enough to see the real step work, not to train a model of this size. Measured: docs/benchmarks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "masked_lm")
    cfg.evaluators = ("perplexity", "accuracy")
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model", "bert", num_layers=12, d_model=768, num_heads=12, max_len=512
    )
    cfg.data = config.section(
        "data",
        "masked_text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="gpt2",
        whole_word=True,
        eval_examples=128,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=2e-4,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.98,
        eps=1e-6,
    )
    cfg.batch_size = 64  # 32,768 tokens a step
    cfg.num_steps = 600
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    return cfg


def tiny(cfg):
    """The same blocks, small, on characters; more of them are hidden, since that is what teaches."""
    cfg.model = config.section(
        "model", "bert", num_layers=3, d_model=128, num_heads=4, max_len=64, dropout=0.0
    )
    cfg.data = config.section(
        "data", "masked_text", path="bundled:shakespeare", tokenizer="chars", mask_rate=0.2
    )
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=5e-3,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
        weight_decay=0.01,
    )
    cfg.batch_size = 32  # 2,048 characters a step
    cfg.num_steps = 700
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 350
    return cfg
