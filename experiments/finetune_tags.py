"""A BERT fine-tuned to tag words: names of people, organisations and places in loan agreements.

    python -m jaxlm.launch --config experiments/finetune_tags.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_tags.py:pos --config.data.path=FILE.jsonl --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_tags.py:tiny     a small one from scratch: two cores, a minute

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; without it a BERT base starts from scratch. FILE has
lists of words and of their tags, as long, in columns that --config.data.tokens_column= and --config.data.tags_column= name; in a .csv or .tsv both
are texts with spaces. The plain experiment scores whole entities (seqeval's F1; tags are B-X, I-X and O), :pos each word by itself.
The tag of a word is learnt at its first sub-word (Devlin et al. 2019, arXiv:1810.04805, section 5.3). Every prediction is in
predictions_val.jsonl. What frequencies alone reach: tools/tag_baseline.py. Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["pos", "tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "classification")
    cfg.evaluators = ("tagging",)
    cfg.checkpoint.best_metric = "entity_f1"
    cfg.data = config.section("data", "tagged", path="bundled:ner", tokenizer="gpt2", seq_len=128)
    cfg.model = config.section("model", "bert", head="token")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=2e-4,
        schedule="linear",
        warmup_steps=25,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 250  # ten epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 50
    if variant == "pos":
        cfg.evaluators = ("classification",)
        cfg.checkpoint.best_metric = "accuracy"
        cfg.num_steps = 480  # three epochs of 5,000 sentences
        cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 160
    if variant == "tiny":
        cfg.model = config.section(
            "model", "bert", head="token", num_layers=2, d_model=64, num_heads=2, max_len=64
        )
        cfg.data.tokenizer, cfg.data.seq_len = "bpe:2000", 64
        cfg.optim.learning_rate = 2e-3
    return cfg
