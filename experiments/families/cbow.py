"""Vectors of words by CBOW with negative sampling (Mikolov et al. 2013, arXiv:1301.3781 and 1310.4546).

    python -m jaxlm.launch --config experiments/families/cbow.py --workdir runs/cbow
    python -m jaxlm.neighbours --model runs/cbow --word king

Your own text: --config.data.path=FILE; Chinese by words of jieba: --config.data.tokenizer=words:30000,min_count=5,language=chinese.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "word_vectors", d_model=100, architecture="cbow")
    cfg.objective = config.section("objective", "negative_sampling")
    cfg.data = config.section("data", "word_windows", tokenizer="words:30000,min_count=5")
    cfg.step = config.section("step", "sparse", num_minibatches=16, adagrad=True)
    cfg.optim = config.section(
        "optim",
        "sgd",
        learning_rate=0.5,
        schedule="linear",
        warmup_steps=0,
        min_lr_ratio=0.004,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    cfg.evaluators = ("word_pairs",)
    cfg.batch_size = 16
    cfg.num_steps = 60  # about five epochs of bundled:shakespeare
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 0
    return cfg
