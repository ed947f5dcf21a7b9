"""The Transformer of 2017, from English to German (Vaswani et al., Attention Is All You Need, arXiv:1706.03762).

    python -m jaxlm.launch --config experiments/transformer_translate.py          bundled pairs, offline
    python -m jaxlm.launch --config experiments/transformer_translate.py:tiny     two cores, under 3 minutes

The paper's recipe at a laptop's size: shared and tied embeddings, sinusoids, dropout of embeddings and branches, label
smoothing, Adam with an inverse square root, and of 21,245 pairs as many side by side in a row as fit. Norms stand before
the branches: behind them, as in the paper, the loss was 0.15 nats higher after 120 steps (and the same for :tiny). The
vocabulary is small, as so few pairs ask for (Sennrich and Zhang 2019, arXiv:1905.11901). The last twentieth of the lines is
translated by beam search with the running average of the weights: `bleu` in summary.json, examples in samples.txt.

Your own pairs, a line each, source TAB target: --config.data.path=FILE.tsv. The tokenizer is trained on their training part;
into Chinese BLEU counts characters (tok:zh in its signature). From TensorFlow Datasets:
--config.data.path=tfds:wmt16_translate/de-en --config.data.source_column=en --config.data.target_column=de.

:tiny, 500 steps, 158 CPU seconds in all: 1.686 ± 0.033 bits a byte of 200 held-out targets (an add-one bigram:
2.404 on all 1,119, tools/bigram_baseline.py), BLEU 5.0 ± 0.6. Measured: docs/benchmarks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq", label_smoothing=0.1)
    cfg.evaluators = ("perplexity", "translation")
    cfg.model = config.section(
        "model",
        "encoder_decoder",
        num_layers=3,
        d_model=256,
        num_heads=4,
        d_ff=1024,
        post_norm=False,
        max_len=144,
    )
    cfg.data = config.section(
        "data",
        "packed_pairs",
        path="bundled:en-de",
        tokenizer="bpe:4000",
        source_len=128,
        target_len=144,
        val_fraction=0.05,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=2e-3,
        schedule="inverse_sqrt",
        warmup_steps=400,
        weight_decay=0.0,
        b2=0.98,
        eps=1e-9,
    )
    cfg.step.ema_decay = 0.998  # in place of the mean of the last checkpoints
    if variant == "tiny":
        return tiny(cfg)
    cfg.batch_size = 16
    cfg.num_steps = 2000
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 1000
    return cfg


def tiny(cfg):
    """Narrower, two layers, half the length, a smaller vocabulary; without dropout, as nothing is seen more than twice."""
    for key, value in (("num_layers", 2), ("d_model", 128), ("d_ff", 512), ("dropout", 0.0)):
        cfg.model[key] = value
    cfg.data.tokenizer = "bpe:2000"
    cfg.data.source_len, cfg.data.target_len, cfg.data.eval_examples = 64, 72, 200
    cfg.optim.learning_rate, cfg.optim.warmup_steps = 3e-3, 100
    cfg.step.ema_decay = 0.98
    cfg.batch_size = 32  # 4,352 tokens a step
    cfg.num_steps = 500
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 250
    return cfg
