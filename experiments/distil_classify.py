"""A classifier of six layers, and one of three that learns from it; by default the sections of Debian packages.

    python -m jaxlm.launch --config experiments/distil_classify.py:teacher --workdir runs/teacher --config.init_from=BERT
    python -m jaxlm.launch --config experiments/distil_classify.py --config.init_from=BERT --config.objective.teacher=runs/teacher
    python -m jaxlm.launch --config experiments/distil_classify.py:alone --config.init_from=BERT

BERT is one of six layers in the Hugging Face layout (MiniLM), or a run of ours. :teacher fine-tunes all of it. The student is
layers 1, 3 and 5 of the same BERT and learns the teacher's probabilities at temperature 2, the labels, and the states behind
the teacher's layers 1, 3 and 5; :alone is the same student, from the labels only. --config.init_from=runs/teacher begins with the
teacher's own layers. Other data, for all three alike: --config.data.path=train.tsv --config.data.val_path=dev.tsv
--config.data.test_path=test.tsv (text TAB label) --config.data.seq_len=48. Over several seeds, with
the paired interval: tools/compare_distillation.py.
"""

from jaxlm import config


def get_config(variant=""):
    config.check_variant(variant, ["teacher", "alone"])
    cfg = config.base()
    cfg.evaluators = ("accuracy",)
    cfg.checkpoint.best_metric = "accuracy"
    cfg.data = config.section(
        "data",
        "labelled",
        path="bundled:packages",
        text_column="synopsis+description",
        label_column="section",
        tokenizer="init_from",
        seq_len=128,
    )
    cfg.model = config.section("model", "bert", head="sequence")
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
    cfg.objective = config.section("objective", "classification")
    if variant != "teacher":
        cfg.init_layers = (1, 3, 5)
    if not variant:
        cfg.objective = config.section(
            "objective", "distillation", soft_coef=0.5, hard_coef=0.5, hidden_coef=0.5
        )
    cfg.batch_size = 32
    cfg.num_steps = 648  # three epochs of SST-2's sentences
    cfg.log_every = 12
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 216
    return cfg
