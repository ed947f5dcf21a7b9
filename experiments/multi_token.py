"""A GPT that predicts the next four tokens at every place, a head for each (Gloeckle et al. 2024, arXiv:2404.19737).

    python -m jaxlm.launch --config experiments/multi_token.py          the shape of GPT-2 small, bundled English texts, offline
    python -m jaxlm.launch --config experiments/multi_token.py:tiny     a character model: two cores, under 3 minutes

The paper's parallel heads: model.num_layers counts all blocks, model.num_future - 1 of them are the heads of the further
tokens, so that a model has as many parameters with 4 heads as with 1. The log has the loss of the next token as `loss`,
comparable with any other model's, and those of the others as `future_2_loss`, ...; validation, samples and `generate` use
the next token's head alone, and compute no other. --config.model.num_future=1 is plain next-token prediction.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "multi_token")
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model", "gpt", num_layers=12, d_model=768, num_heads=12, max_len=1024, num_future=4
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
    """Three blocks to the next character, and one more for each of the three after it."""
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=6,
        d_model=128,
        num_heads=4,
        max_len=128,
        positions="rotary",
        norm="rmsnorm",
        bias=False,
        num_future=4,
    )
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="chars")
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=3e-3, warmup_steps=50, weight_decay=0.1, b2=0.98
    )
    cfg.batch_size = 16  # 2,048 characters a step
    cfg.num_steps = 400
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    cfg.sample_tokens = 300
    return cfg
