"""A BERT fine-tuned to choose the right one of several answers to a question.

    python -m jaxlm.launch --config experiments/finetune_choice.py --config.init_from=PATH --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/finetune_choice.py:tiny     a small one from scratch: two cores, a minute

PATH is a BERT in the Hugging Face layout, or a run of bert_base.py; without it a BERT base starts from scratch. A row holds
[CLS] question [SEP] choice [SEP] of every choice, each with eyes for itself only; the softmax is over their [CLS] (Devlin et
al. 2019, arXiv:1810.04805, section 4.4). Other data: --config.data.path=FILE.jsonl, .csv or .tsv, with
--config.data.question_column=, --config.data.choices_column= (a list, or several columns: a+b+c+d) and --config.data.answer_column= (number
from 0, letter, or the choice itself). `chance` in the log is what guessing reaches. Every prediction is in
predictions_val.jsonl. Measured: docs/tasks.md.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["tiny"])
    cfg = config.base()
    cfg.objective = config.section("objective", "choice")
    cfg.evaluators = ("choices",)
    cfg.checkpoint.best_metric = "accuracy"
    cfg.data = config.section("data", "choices", tokenizer="gpt2", seq_len=128)
    cfg.model = config.section("model", "bert", head="token")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=1e-4,
        schedule="linear",
        warmup_steps=60,
        min_lr_ratio=0.0,
        weight_decay=0.01,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 570  # five epochs
    cfg.log_every = 10
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 114
    if variant == "tiny":
        cfg.model = config.section(
            "model", "bert", head="token", num_layers=2, d_model=64, num_heads=2, max_len=160
        )
        cfg.data.tokenizer, cfg.data.seq_len = "bpe:2000", 160
        cfg.optim.learning_rate = 1e-3
        cfg.num_steps = 228
    return cfg
