"""An LSTM language model taught by a discriminator through REINFORCE, with roll-outs: SeqGAN (Yu et al. 2017, arXiv:1609.05473).

    python -m jaxlm.launch --config experiments/families/seqgan.py

Beside the paper's: roll-outs begin at every sixteenth token, not at each; two of each, not sixteen; the mean return of the batch's
other texts is a baseline; the discriminator has no highway layer. `--config.step.num_rollouts=0 --config.model.discriminator=gru
--config.objective.discount=0.95` has rewards at every position in place of roll-outs.
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
    cfg.objective = config.section("objective", "adversarial", generator="policy")
    cfg.step = config.section(
        "step",
        "adversarial",
        pretrain_fraction=0.8,
        discriminator_fraction=0.02,
        generator_rate=0.05,
        num_rollouts=2,
        rollout_every=16,
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
