"""Short texts for long ones: what a Debian package is, from its description (or any pairs of your own).

    python -m jaxlm.launch --config experiments/summarize.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/summarize.py:tiny     a small one from scratch: two cores, under 3 minutes

PATH is a T5 in the Hugging Face layout, or a run of t5_small.py; without it one of that size starts from scratch. Your own:
--config.data.path=FILE.jsonl (or .csv, .tsv) with --config.data.source_column= and --config.data.target_column=. The last
twentieth of the lines is summarised greedily: ROUGE and METEOR in summary.json, texts in samples.txt. Three rules that need no
model (the first words, a similar description's summary, the commonest one): tools/writing_baselines.py.
Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq", label_smoothing=0.1)
    cfg.evaluators = ("perplexity", "summaries")
    cfg.data = config.section(
        "data",
        "packed_pairs",
        path="bundled:packages",
        source_column="description",
        target_column="synopsis",
        tokenizer="gpt2",
        source_len=256,
        target_len=32,
        val_fraction=0.05,
    )
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section(
        "model",
        "t5",
        num_layers=8,
        d_model=512,
        num_heads=6,
        head_dim=64,
        d_ff=1024,
        mlp="geglu",
        tie_embeddings=False,
        max_len=512,
    )
    cfg.optim = config.section(
        "optim",
        "adafactor",
        learning_rate=1e-3,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
    )
    cfg.batch_size = 32
    cfg.num_steps = 606  # three epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 202
    return cfg


def tiny(cfg):
    """Two layers of 128, from scratch, on the beginning of a description; the vocabulary is the packages' own."""
    cfg.model = config.section(
        "model",
        "encoder_decoder",
        num_layers=2,
        d_model=128,
        num_heads=4,
        d_ff=512,
        dropout=0.0,
        post_norm=False,
        max_len=96,
    )
    cfg.data.tokenizer = "bpe:2000"
    cfg.data.source_len, cfg.data.target_len, cfg.data.eval_examples = 96, 24, 200
    cfg.optim = config.section(
        "optim",
        "muon",
        learning_rate=0.02,
        adam_learning_rate=1e-2,
        schedule="linear",
        warmup_steps=50,
        min_lr_ratio=0.0,
        weight_decay=0.01,
    )
    cfg.batch_size = 32  # 3,840 tokens a step
    cfg.num_steps = 600  # three epochs
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 300
    return cfg
