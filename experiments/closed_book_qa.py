"""Questions answered from memory, without a text to look into (Roberts et al. 2020, arXiv:2002.08910): what words mean.

    python -m jaxlm.launch --config experiments/closed_book_qa.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/closed_book_qa.py:tiny     a small one from scratch: two cores, under 3 minutes

PATH is a T5 in the Hugging Face layout, or a run of t5_small.py; without it one of that size starts from scratch. What a model
has not read anywhere it can't know: the words asked about in the last twentieth of the lines are in none of the others, so that
what is learnt here is how such answers read, and what parts of words say. Exact match and token F1, as SQuAD counts them, are
in summary.json, answers in samples.txt; what three rules reach without a model says tools/writing_baselines.py. Any language
model is asked the trivia by python -m jaxlm.evaluate --model PATH --suite qa. Your own questions:
--config.data.path=FILE.jsonl (or .csv, .tsv) with --config.data.source_column= and --config.data.target_column=; of a list of
accepted answers, as bundled:trivia has them (question, answers), the first is learnt, and any is right.
Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "seq2seq")
    cfg.evaluators = ("perplexity", "answers")
    cfg.data = config.section(
        "data",
        "packed_pairs",
        path="bundled:glosses",
        source_column="question",
        target_column="answer",
        tokenizer="gpt2",
        source_len=32,
        target_len=48,
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
    cfg.num_steps = 975  # three epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 325
    return cfg


def tiny(cfg):
    """Two layers of 128, from scratch; the vocabulary is the dictionary's own."""
    cfg.model = config.section(
        "model",
        "encoder_decoder",
        num_layers=2,
        d_model=128,
        num_heads=4,
        d_ff=512,
        dropout=0.1,
        post_norm=False,
        max_len=48,
    )
    cfg.data.tokenizer, cfg.data.eval_examples = "bpe:2000", 200
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
    cfg.batch_size = 32  # 2,560 tokens a step
    cfg.num_steps = 700
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 350
    return cfg
