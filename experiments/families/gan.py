"""An LSTM language model taught by a discriminator through relaxed tokens: the Gumbel-softmax GAN (Kusner and Hernandez-Lobato 2016).

    python -m jaxlm.launch --config experiments/families/gan.py
    python tools/gan_report.py --workdir runs/gan --output runs/gan/report

The first four fifths of its steps are by likelihood, as without likelihood the game does not get far with text; its learning rate
is a twentieth of theirs from there on. `--config.step.pretrain_fraction=1 --config.step.discriminator_fraction=0` is the same generator
without any game.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "gan",
        num_layers=1,
        d_model=192,
        max_len=128,
        discriminator="cnn",
        discriminator_width=32,
        num_filters=32,
        discriminator_dropout=0.25,
    )
    cfg.data = config.section(
        "data",
        "text",
        path="bundled:shakespeare",
        tokenizer="chars",
        val_fraction=0.1,
        seq_len=128,
        eval_examples=256,
    )
    cfg.objective = config.section("objective", "adversarial", generator="gumbel")
    cfg.step = config.section(
        "step",
        "adversarial",
        pretrain_fraction=0.8,
        discriminator_fraction=0.02,
        generator_rate=0.05,
        min_temperature=0.5,
    )
    cfg.optim = {
        "generator": config.section(
            "optim", learning_rate=0.01, schedule="constant", warmup_steps=50, weight_decay=0.0
        ),
        "discriminator": config.section(
            "optim", learning_rate=1e-3, schedule="constant", warmup_steps=0, weight_decay=0.0
        ),
    }
    cfg.evaluators = ("perplexity", "collapse")
    cfg.batch_size = 32
    cfg.num_steps = 1221  # 5 million characters
    cfg.log_every = 20
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 500
    return cfg
