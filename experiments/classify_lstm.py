"""A bidirectional LSTM that classifies texts, from scratch; by default the sections of Debian packages, from their descriptions.

    python -m jaxlm.launch --config experiments/classify_lstm.py
    python -m jaxlm.launch --config experiments/classify_lstm.py:gru      a GRU, and the mean of its states
    python -m jaxlm.launch --config experiments/classify_lstm.py:tiny     two cores, under 3 minutes
    python -m jaxlm.launch --config experiments/classify_lstm.py:sentiment --config.data.path=FILE.jsonl   tiny, of lines with text and label

Words, the layer's largest states over a text, and a linear head. Data and split are those of finetune_classify.py and
classify_bag.py. What counting words reaches on them: `python tools/classify_baseline.py experiments/classify_lstm.py --run RUN`.
Other data: --config.data.path=FILE.tsv (text TAB label), or FILE.csv or FILE.jsonl with --config.data.text_column= and
--config.data.label_column=; reviews with their sentiment: --config.data.path=hf:stanfordnlp/imdb --config.data.text_column=text
--config.data.label_column=label --config.data.val_path=hf:stanfordnlp/imdb@test. The epoch with the best validation accuracy is kept.

Measured, :tiny: accuracy 0.703 ± 0.018 of 632 held-out descriptions after 27 CPU seconds, less than words that are counted or
averaged reach (classify_bag.py).
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["gru", "sentiment", "tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "classification")
    cfg.evaluators = ("accuracy",)
    cfg.checkpoint.best_metric = "accuracy"
    cfg.model = config.section(
        "model",
        "rnn_classifier",
        cell="gru" if variant == "gru" else "lstm",
        pooling="mean" if variant == "gru" else "max",
        d_model=128,
        d_hidden=256,
        dropout=0.4,
        max_len=128,
    )
    cfg.data = config.section(
        "data",
        "labelled",
        path="bundled:packages",
        text_column="synopsis+description",
        label_column="section",
        tokenizer="words:20000,min_count=2",
    )
    if variant == "sentiment":
        cfg.data.path, cfg.data.text_column = "sentiment.jsonl", "text"
        cfg.data.label_column = "label"
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=2e-3,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
    )
    cfg.batch_size = 32
    cfg.num_steps = 1900  # ten epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 190  # an epoch
    return tiny(cfg) if variant in ("sentiment", "tiny") else cfg


def tiny(cfg):
    """Narrower, on the first 64 words of a description."""
    for key, value in (("d_model", 64), ("d_hidden", 96), ("max_len", 64)):
        cfg.model[key] = value
    cfg.num_steps = 1330  # seven epochs
    cfg.optim.learning_rate = 4e-3
    cfg.log_every = 50
    return cfg
