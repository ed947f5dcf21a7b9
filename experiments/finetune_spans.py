"""A BERT fine-tuned to mark the answer to a question in a text, or to say that there is none; by default on SQuAD 2.0.

    python -m jaxlm.launch --config experiments/finetune_spans.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_spans.py:answered --config.data.path=FILE.jsonl --config.init_from=PATH --config.data.tokenizer=init_from

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; without it a BERT base starts from scratch. FILE has
columns context, question, answers (a list of texts) and starts (their first characters), or other ones by
--config.data.context_column= and so on (--config.data.starts_column= for answers that are to be looked for); *.json files
as SQuAD's own are read, too. :answered always gives a span, for data whose questions all have an answer. SQuAD's own scores
are on another split: --config.data.test_path=hf:rajpurkar/squad_v2@validation. Long texts are read in windows that overlap. Every answer,
with its place in the text, is in predictions_val.jsonl. Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["answered"])
    cfg = config.base()
    cfg.objective = config.section("objective", "span")
    cfg.evaluators = ("answered_spans" if variant else "spans",)
    cfg.checkpoint.best_metric = "f1"
    cfg.data = config.section(
        "data", "spans", path="hf:rajpurkar/squad_v2", tokenizer="gpt2", seq_len=384, stride=128
    )
    cfg.model = config.section("model", "bert", head="token")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=5e-5,
        schedule="linear",
        warmup_steps=800,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 8000  # two epochs of SQuAD 2.0
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 2000
    if variant == "answered":
        cfg.data.path = "hf:rajpurkar/squad"
        cfg.num_steps = 5500
        cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 1100
    return cfg
