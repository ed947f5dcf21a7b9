"""One model for six tasks; by default a BERT that labels words and texts, from bundled data.

    python -m jaxlm.launch --config experiments/multi_task.py --config.init_from=BERT --config.data.tokenizer=init_from
    python -m jaxlm.launch --config experiments/multi_task.py:tiny              two layers from scratch, minutes on two cores
    python -m jaxlm.launch --config experiments/multi_task.py:text_to_text      a small T5 that is told its task in words
    python -m jaxlm.launch --config experiments/multi_task.py:english --config.data.folder=DIR ...        six English tasks, in files

BERT is a folder in the Hugging Face layout (MiniLM), or a run of ours; without it a BERT base starts from scratch. Rows are drawn
task by task (data.weights, data.temperature, data.limit: data/tasks/mixture.py). Metrics have every task's loss, accuracy and
gradient norm (step.term_norms), evaluation every task's own scores, as ner_entity_f1; `accuracy`, the mean over tasks, chooses the
checkpoint. A task's data are overridden by its name: --config.data.tasks.topic.path=own.jsonl. Against models of a single task:
tools/compare_multi_task.py.
"""

from jaxlm import config

SPLITS = {"val": "dev", "test": "test"}


def get_config(variant=""):
    config.check_variant(variant, ["tiny", "english", "text_to_text"])
    cfg = config.base()
    cfg.step.term_norms = True
    cfg.checkpoint.best_metric = "accuracy"
    if variant == "text_to_text":
        return text_to_text(cfg)
    cfg.objective = config.section("objective", "multi_task")
    tasks = english() if variant == "english" else bundled()
    cfg.data = config.section(
        "data", "mixture", tokenizer="gpt2", seq_len=96, temperature=2.0, tasks=tasks
    )
    scores = {"ner": "tagging", "pos": "accuracy"}
    own = tuple(f"{scores.get(name, 'classification')}@{name}" for name in tasks)
    cfg.evaluators = ("multi_task", *own)
    cfg.model = config.section("model", "bert", head="token")
    cfg.optim = config.section(
        "optim",
        "adamw",
        learning_rate=1e-4,
        schedule="linear",
        warmup_steps=100,
        min_lr_ratio=0.0,
        b2=0.999,
    )
    cfg.batch_size = 32
    cfg.num_steps = 1200
    cfg.log_every = 20
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 300
    if variant == "tiny":
        cfg.model = config.section(
            "model", "bert", head="token", num_layers=2, d_model=64, num_heads=2, max_len=96
        )
        cfg.optim.learning_rate = 2e-3
    return cfg


def labelled(path, text="text", label="label", **more):
    """Texts with a label each."""
    columns = {"text_column": text, "label_column": label}
    return config.section("data", "labelled", path=path, **columns, **more)


def bundled():
    """Entities, and what a text is about, from, or by."""
    return {
        "ner": config.section("data", "tagged", path="bundled:ner"),
        "section": labelled("bundled:packages", "synopsis+description", "section"),
        "topic": labelled("bundled:trivia", "question", "topic"),
        "genre": labelled("bundled:poetry", "text", "genre"),
        "poet": labelled("bundled:poetry", "title+text", "author"),
        "exam": labelled("bundled:choice", "question", "source"),
    }


def english():
    """Entities, parts of speech, topics, opinions and satire; four of them in files under data.folder."""
    sst2 = {f"{split}_path": f"benchmarks/sst2/{name}.tsv" for split, name in SPLITS.items()}
    return {
        "ner": config.section("data", "tagged", path="bundled:ner"),
        "pos": config.section("data", "tagged", path="tag/pos.jsonl"),
        "section": labelled("bundled:packages", "synopsis+description", "section"),
        "sst2": labelled("benchmarks/sst2/train.tsv", **sst2),
        "opinion": labelled("classify/sentiment.jsonl"),
        "satire": labelled("classify/headlines.jsonl"),
    }


def text_to_text(cfg):
    """Six tasks of texts in, texts out; what stands before a source says which."""

    def pairs(name, source, target, prefix):
        columns = {"source_column": source, "target_column": target, "source_prefix": prefix}
        lengths = {"source_len": 160, "target_len": 48, "eval_examples": 200}
        return config.section("data", "pairs", path=f"bundled:{name}", **columns, **lengths)

    cfg.objective = config.section("objective", "multi_task", average="target")
    cfg.data = config.section(
        "data",
        "mixture",
        tokenizer="gpt2",
        temperature=2.0,
        tasks={
            "translate": pairs("en-de", "en", "de", "translate English to German: "),
            "summarize": pairs("packages", "description", "synopsis", "summarize: "),
            "section": pairs("packages", "synopsis", "section", "section: "),
            "define": pairs("glosses", "question", "answer", "answer: "),
            "genre": pairs("poetry", "text", "genre", "genre: "),
            "poet": pairs("poetry", "text", "author", "poet: "),
        },
    )
    cfg.evaluators = ("multi_task", "translation@translate", "summaries@summarize")
    cfg.evaluators += tuple(f"answers@{name}" for name in ("section", "define", "genre", "poet"))
    cfg.model = config.section("model", "t5", num_layers=4, d_model=256, num_heads=4, max_len=160)
    cfg.optim = config.section(
        "optim", "adamw", learning_rate=1e-3, schedule="linear", warmup_steps=200
    )
    cfg.batch_size = 32
    cfg.num_steps = 6000
    cfg.log_every = 50
    cfg.eval_every = cfg.checkpoint_every = cfg.sample_every = 2000
    return cfg
