"""A sentence encoder trained by contrast: what belongs together is near, the rest of the batch far.

    python -m jaxlm.launch --config experiments/embed.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/embed.py:recommend --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/embed.py:simcse --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/embed.py:tiny     a small one from scratch: two cores, under 3 minutes

PATH is a BERT in the Hugging Face layout, or a run of ours; without it a BERT base starts from scratch. The pairs are dictionary
questions and their answers; of the last twentieth each question's answer is looked for among all of theirs. :recommend finds
items for a wish: Debian packages by their descriptions, for what a synopsis says; a wish may also be a history, a list of
texts. :simcse needs no pairs: a description and itself, read under other dropout (Gao et al. 2021, arXiv:2104.08821).

Your own pairs: --config.data.path=FILE.jsonl (or .csv, .tsv) with --config.data.anchor_column= and
--config.data.positive_column=, where it is known --config.data.negative_column= too. The run's folder is then an encoder
for jaxlm.retrieve, `jaxlm.load(DIR).embed(texts)` and
python -m jaxlm.evaluate --model DIR --suite retrieval, which has BM25 and popularity beside it. Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["recommend", "simcse", "tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "contrastive")
    cfg.model = config.section("model", "bert", head="none")
    cfg.evaluators = ("retrieval",)
    cfg.checkpoint.best_metric = "mrr"
    cfg.data = config.section(
        "data",
        "text_pairs",
        path="bundled:glosses",
        anchor_column="question",
        positive_column="answer",
        tokenizer="gpt2",
        seq_len=48,
        val_fraction=0.05,
    )
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=5e-5,
        schedule="linear",
        warmup_steps=30,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 64
    cfg.num_steps = 324  # two epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = 162
    if variant:
        cfg = {"recommend": recommend, "simcse": simcse, "tiny": tiny}[variant](cfg)
    return cfg


def recommend(cfg):
    """A synopsis and the description that it is of."""
    cfg.data.path = "bundled:packages"
    cfg.data.anchor_column, cfg.data.positive_column = "synopsis", "description"
    cfg.data.seq_len = 128
    cfg.num_steps = 202  # two epochs
    cfg.eval_every = cfg.checkpoint_every = 101
    return cfg


def simcse(cfg):
    """A description and itself: nothing is left to find, so it is scored afterwards, by the suite."""
    cfg.data.path, cfg.data.anchor_column, cfg.data.positive_column = (
        "bundled:packages",
        "description",
        "",
    )
    cfg.data.seq_len = 64
    cfg.evaluators = ()
    cfg.checkpoint.best_metric = "loss"
    cfg.optim.learning_rate = 1e-5
    cfg.num_steps = 101  # an epoch
    return cfg


def tiny(cfg):
    """Two layers, from scratch, on wishes and items; the vocabulary is their own."""
    cfg = recommend(cfg)
    cfg.model = config.section(
        "model", "bert", head="none", num_layers=2, d_model=128, num_heads=2, max_len=64
    )
    cfg.data.tokenizer, cfg.data.seq_len = "bpe:4000", 64
    cfg.objective.symmetric = True
    cfg.optim.learning_rate, cfg.optim.warmup_steps = 1e-3, 50
    cfg.batch_size = 128
    cfg.num_steps = 500  # ten epochs
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = 250
    return cfg
