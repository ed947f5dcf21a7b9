"""A mixture of experts in the shape of a small Mixtral (Jiang et al. 2024, arXiv:2401.04088): 8 experts, 2 of them a token.

    python -m jaxlm.launch --config experiments/moe_small.py          bundled English texts, GPT-2's BPE, offline
    python -m jaxlm.launch --config experiments/moe_small.py:tiny     bytes: two cores, under 3 minutes
    python -m jaxlm.launch --config experiments/moe_small.py:dense    :tiny's dense twin: as many FLOPs a token

Every block's MLP is eight SwiGLU experts of half a dense MLP's width, of which a token meets two: the FLOPs of the dense
model, four times its MLP parameters. Dropless; balance is kept by the load-balance and router z-losses, and the log shows
router/max_load (1 is even), router/entropy and router/dropped. On several devices --config.mesh.expert=4 splits the experts.
tools/compare_moe.py trains both twins on the same batches. Measured: docs/families.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny", "dense"])
    cfg = config.base()
    if variant:
        return tiny(cfg, variant)
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=12,
        d_model=768,
        num_heads=12,
        max_len=1024,
        positions="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        bias=False,
        tie_embeddings=False,
        num_experts=8,
        expert_d_ff=1024,  # half of 2048
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


def tiny(cfg, variant):
    """The same blocks, small, on bytes; `dense` has one MLP in each instead, as wide as two experts."""
    experts = {"d_ff": 512} if variant == "dense" else {"num_experts": 8, "expert_d_ff": 256}
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=4,
        d_model=128,
        num_heads=2,
        max_len=128,
        positions="rotary",
        norm="rmsnorm",
        mlp="swiglu",
        bias=False,
        qk_norm=True,
        tie_embeddings=False,
        init="zero_out",
        **experts,
    )
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare,bundled:speeches,bundled:technical",
        tokenizer="bytes",
        eval_examples=1024,
    )
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=0.01,
        schedule="linear",
        warmup_steps=15,
        min_lr_ratio=0.0,
        weight_decay=0.1,
        clip_norm=0.0,
        eps=1e-10,
    )
    cfg.batch_size = 16  # 2,048 bytes a step
    cfg.num_steps = 600
    cfg.log_every = 20
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 200
    return cfg
