"""A BERT fine-tuned to give a number; by default how much two sentences mean the same (STS-B, 0 to 5).

    python -m jaxlm.launch --config experiments/finetune_scores.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_scores.py:rating --config.data.path=FILE.jsonl --config.init_from=PATH --config.data.tokenizer=init_from

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; without it a BERT base starts from scratch. :rating is for
single texts: FILE has columns text and score (.jsonl, .csv or .tsv), or other ones by --config.data.text_column= and
--config.data.score_column=. Numbers may be of any size: they are standardised for the model, and scores are in the data's own. Every
prediction is in predictions_val.jsonl. Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["rating"])
    cfg = config.base()
    cfg.objective = config.section("objective", "regression")
    cfg.evaluators = ("regression",)
    cfg.checkpoint.best_metric = "pearson"
    cfg.data = config.section(
        "data",
        "scored",
        path="hf:nyu-mll/glue:stsb",
        text_column="sentence1",
        pair_column="sentence2",
        score_column="label",
        tokenizer="gpt2",
        seq_len=128,
    )
    if variant == "rating":
        cfg.data.path = "hf:stanfordnlp/sst:default"
        cfg.data.text_column, cfg.data.pair_column, cfg.data.score_column = "text", "", "score"
        cfg.data.seq_len = 64
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
    cfg.num_steps = 570
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 190
    return cfg
