"""A small character GPT. `python -m jaxlm.launch --config experiments/quickstart.py`"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "gpt",
        num_layers=4,
        d_model=128,
        num_heads=4,
        max_len=128,
        positions="rotary",
        norm="rmsnorm",
        mlp="relu2",
        bias=False,
        qk_norm=True,
    )
    cfg.data = config.section("data", "text", path="bundled:shakespeare", tokenizer="chars")
    cfg.data.seq_len = cfg.model.get_ref("max_len")
    cfg.optim = config.section("optim", "muon", learning_rate=0.02)
    cfg.num_steps = 100
    cfg.batch_size = 32
    cfg.log_every = 10
    cfg.eval_every = 50
    cfg.checkpoint_every = 50
    cfg.sample_every = 50
    return cfg
