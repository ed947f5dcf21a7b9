"""A BERT fine-tuned to give texts any number of labels; by default the emotions of comments (GoEmotions, 28 labels).

    python -m jaxlm.launch --config experiments/finetune_labels.py --config.init_from=PATH --config.data.tokenizer=init_from

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; without it a BERT base starts from scratch. Other data:
--config.data.path=FILE.jsonl, .csv or .tsv with --config.data.text_column= and --config.data.labels_column=, a list, or a text with
--config.data.separator= (a comma) between the labels; a text without any has none of them. Each label is learnt for itself
(binary cross-entropy) and predicted where it is more likely than not. Every prediction is in predictions_val.jsonl.
"""

from jaxlm import config


def get_config():
    cfg = config.base()
    cfg.objective = config.section("objective", "multi_label")
    cfg.evaluators = ("multi_label",)
    cfg.checkpoint.best_metric = "micro_f1"
    cfg.data = config.section(
        "data",
        "multi_labelled",
        path="hf:google-research-datasets/go_emotions:simplified",
        tokenizer="gpt2",
        seq_len=64,
    )
    cfg.model = config.section("model", "bert", head="sequence")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=5e-5,
        schedule="linear",
        warmup_steps=300,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 3600  # three epochs
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 1200
    return cfg
