"""A BERT fine-tuned to classify texts; by default the sections of Debian packages, from their descriptions.

    python -m jaxlm.launch --config experiments/finetune_classify.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_classify.py:tiny     a small one from scratch: two cores, under 3 minutes

What trains is everything, or, with the same options:

    experiments/finetune_classify.py:lora       adapters of rank 8 beside every linear layer of the blocks, and the head
    experiments/finetune_classify.py:probe      the head alone: a linear probe
    experiments/finetune_classify.py:last       the last block and the head
    experiments/finetune_classify.py:unfreeze   the head and the last block at first, a block more every 30 steps; lower ones slower

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; its shape, weights and tokenizer are taken, and a new head
is put on the mean of its last states (--config.model.pooler=true: on BERT's own pooler, as other tools have it, so that
jaxlm.convert can export it). Without init_from a BERT base starts from scratch. Other data: --config.data.path=FILE.tsv
(text TAB label, a line each; labels are the distinct values, of the packages those of at least 50), or FILE.csv or FILE.jsonl
with --config.data.text_column= and --config.data.label_column=; --config.data.val_path= names lines to validate on, else the
last tenth is taken. The epoch with the best validation accuracy is kept. Predictions beside labels are in samples.txt.
Measured: docs/benchmarks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny", *TUNINGS])
    cfg = config.base()
    cfg.objective = config.section("objective", "classification")
    cfg.evaluators = ("accuracy",)
    cfg.checkpoint.best_metric = "accuracy"
    cfg.data = config.section(
        "data",
        "labelled",
        path="bundled:packages",
        text_column="synopsis+description",
        label_column="section",
        tokenizer="gpt2",
        seq_len=128,
    )
    if variant == "tiny":
        return tiny(cfg)
    cfg.model = config.section("model", "bert", head="sequence")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=5e-5,
        schedule="linear",
        warmup_steps=60,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 570  # three epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 190
    return TUNINGS[variant](cfg) if variant else cfg


def lora(cfg):
    """Adapters start at nothing and take a rate ten times that of the whole model."""
    cfg.tuning = config.section("tuning", "lora", rank=8)
    cfg.optim.learning_rate = 5e-4
    return cfg


def probe(cfg):
    cfg.tuning = config.section("tuning", "partial", last_layers=0)
    cfg.optim.learning_rate = 1e-2
    return cfg


def last(cfg):
    cfg.tuning = config.section("tuning", "partial", last_layers=1)
    return cfg


def unfreeze(cfg):
    cfg.tuning = config.section("tuning", "partial", unfreeze_every=30)
    cfg.optim.layer_decay = 0.8
    return cfg


TUNINGS = {"lora": lora, "probe": probe, "last": last, "unfreeze": unfreeze}


def tiny(cfg):
    """Two layers, from scratch, on the first 64 tokens of a description."""
    cfg.model = config.section(
        "model", "bert", head="sequence", num_layers=2, d_model=64, num_heads=2, max_len=64
    )
    cfg.data.seq_len = 64
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=2e-3, schedule="linear", warmup_steps=50, min_lr_ratio=0.0
    )
    cfg.batch_size = 32
    cfg.num_steps = 570  # three epochs
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 190
    return cfg
