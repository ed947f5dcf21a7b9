"""Llama shape, about 100M parameters: rotary positions, RMSNorm, SwiGLU, no biases, grouped heads (Touvron et al. 2023).

    python -m jaxlm.launch --config experiments/llama_small.py          bundled English texts, offline
    python -m jaxlm.launch --config experiments/llama_small.py:tiny     a character model: two cores, under 3 minutes

The bundled 2 million tokens of GPT-2's BPE are enough to see the real step work, not to train a model of this size; name
more text by --config.data.path. Documents follow one another in a window without a mask between them; data.kind
"packed_text" keeps them apart. Measured: docs/benchmarks.md.
"""

from jaxlm import config

SHAPE = dict(positions="rotary", norm="rmsnorm", norm_eps=1e-5, mlp="swiglu", bias=False)


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=12,
        d_model=768,
        num_heads=12,
        num_kv_heads=4,
        d_ff=2048,
        max_len=1024,
        **SHAPE,
    )
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="gpt2",
        eval_examples=64,
    )
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=6e-4, warmup_steps=50, weight_decay=0.1, b2=0.95
    )
    cfg.batch_size = 64  # 65,536 tokens a step
    cfg.num_steps = 300
    cfg.log_every = 1
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 100
    return cfg


def tiny(cfg):
    """The same blocks, small, on characters of one play after another."""
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=3,
        d_model=128,
        num_heads=4,
        num_kv_heads=2,
        d_ff=352,
        max_len=128,
        **SHAPE,
    )
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="chars")
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=3e-3, warmup_steps=50, weight_decay=0.1, b2=0.98
    )
    cfg.batch_size = 16  # 2,048 characters a step
    cfg.num_steps = 600
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 300
    cfg.sample_tokens = 300
    return cfg
