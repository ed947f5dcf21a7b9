"""Vectors of words from how often words stand together (GloVe, Pennington, Socher and Manning 2014).

    python -m jaxlm.launch --config experiments/families/glove.py --workdir runs/glove
    python -m jaxlm.neighbours --model runs/glove --word king

As their tool: AdaGrad from a rate of 0.05, x_max 10 for a small text (100 for billions of words). Your own text: --config.data.path=FILE.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section("model", "word_vectors", d_model=100, biases=True)
    cfg.objective = config.section("objective", "glove")
    cfg.data = config.section(
        "data", "cooccurrences", tokenizer="words:30000,min_count=5", val_fraction=0.02, x_max=10.0
    )
    cfg.step = config.section("step", "sparse", num_minibatches=16, adagrad=True)
    cfg.optim = config.section(
        "optim",
        "sgd",
        learning_rate=0.05,
        schedule="constant",
        warmup_steps=0,
        momentum=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    cfg.evaluators = ("word_pairs",)
    cfg.batch_size = 64
    cfg.num_steps = 200  # about fifteen epochs of bundled:shakespeare
    cfg.log_every = 20
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 0
    return cfg
