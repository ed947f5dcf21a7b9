"""An AWD-LSTM of characters (Merity et al. 2017, arXiv:1708.02182), a million parameters.

    python -m jaxlm.launch --config experiments/families/awd_lstm.py

DropConnect on the recurrent kernels, locked dropout, dropout of whole characters, AR and TAR. The rates are a fraction of the
paper's, which are for 24 million parameters and hundreds of epochs; these are five. Adam in place of NT-ASGD.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.model = config.section(
        "model",
        "rnn",
        cell="lstm",
        num_layers=3,
        d_model=128,
        d_hidden=256,
        dropout=0.1,
        input_dropout=0.05,
        output_dropout=0.1,
        locked_dropout=True,
        word_dropout=0.02,
        weight_dropout=0.2,
        activation_reg=0.5,
        temporal_reg=0.25,
    )
    cfg.data = config.section(
        "data",
        "stream_text",
        path="bundled:shakespeare",
        tokenizer="chars",
        seq_len=128,
        val_fraction=0.1,
        eval_examples=256,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=0.01,
        schedule="cosine",
        warmup_steps=100,
        min_lr_ratio=0.05,
        weight_decay=0.0,
    )
    cfg.batch_size = 32  # 4,096 characters a step
    cfg.num_steps = 1220  # 5 million characters
    cfg.log_every = 50
    return cfg
