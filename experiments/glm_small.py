"""GLM, 124M parameters (110M with BERT's vocabulary: GLM base; Du et al. 2022, arXiv:2103.10360): fill blanks, write on.

    python -m jaxlm.launch --config experiments/glm_small.py          bundled English texts, offline
    python -m jaxlm.launch --config experiments/glm_small.py:tiny     characters: two cores, under 3 minutes

One stack reads 512 tokens in which 15 % are hidden, in blanks of 3 on average, and fills them one after the other; a quarter
of the examples have one long blank at the end instead, so that `python -m jaxlm.generate` writes on from a prompt. Tokens
are GPT-2's BPE and [MASK]. At sample points, what the model puts into the first blank of some validation texts is in
samples.txt. The bundled 2 million tokens are enough to see the real step work, not to train a model of this size.
Measured: docs/families.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "blank_infilling")
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section("model", "glm", num_layers=12, d_model=768, num_heads=12)
    cfg.data = config.section(
        "data",
        "blank_text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="gpt2",
        long_share=0.25,
        eval_examples=128,
    )
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=4e-4, warmup_steps=50, weight_decay=0.1, b2=0.98
    )
    cfg.batch_size = 64  # 40,000 tokens a step
    cfg.num_steps = 600
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    return cfg


def tiny(cfg):
    """The same blocks, small, on characters; 30 % of them hidden, in blanks of 8 on average, and places by rotation.

    Measured on two CPU cores: 2.87 +- 0.02 bits per byte of held-out blanks, their ends included; an add-one bigram needs 3.63.
    """
    cfg.model = config.section(
        "model",
        "glm",
        num_layers=3,
        d_model=128,
        num_heads=4,
        d_ff=512,
        max_len=128,
        positions="rotary",
    )
    cfg.data = config.section(
        "data",
        "blank_text",
        path="bundled:shakespeare",
        tokenizer="chars",
        noise_density=0.3,
        mean_span=8.0,
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
    cfg.batch_size = 16
    cfg.num_steps = 600
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 300
    return cfg
