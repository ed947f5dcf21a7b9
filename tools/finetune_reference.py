"""The same fine-tuning as a run of experiments/finetune_classify.py, by transformers' Trainer, and both side by side.

    python tools/finetune_reference.py RUN

RUN is a finished run from a Hugging Face BERT, of data with val and test parts. The Trainer is given its batches in their order (filled up to
the longest text, as its users do it), the same first weights, the fresh head's too, and the same dropout, schedule, AdamW and
clipping; only what dropout draws differs. The epoch with the best accuracy on val is scored on test. Ends with a Markdown table of
accuracies and steps a second, and the difference with its 95 % interval by paired bootstrap over the test examples. Both use the
threads that they find. Needs the extra [parity].
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm import cli, config


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.finetune_reference", "A run's fine-tuning by transformers' Trainer.")
    parser.add_argument("run", metavar="RUN", help="a finished run of finetune_classify.py")
    options = parser.parse_args(argv)
    return cli.guarded(lambda: print(compare(Path(options.run))))


def compare(run: Path) -> str:
    """The table, after the Trainer is done."""
    if not (run / "summary.json").exists():
        raise ValueError(f"{run} is no finished run")
    cfg = config.read(run / "config.json")
    if cfg.model.kind != "bert" or cfg.tuning.kind != "full" or cfg.model.pooler:
        raise ValueError(
            f"{run} is no run of a whole BERT with a head on the mean of its last states"
        )
    summary = json.loads((run / "summary.json").read_text())
    theirs = finetune(cfg)
    return table(run, summary, theirs)


def finetune(cfg: Any) -> dict[str, Any]:
    """The Trainer's: whether each test example is right at the best epoch, the accuracy on val, and steps a second."""
    import torch
    import transformers

    from jaxlm.data import pipeline
    from jaxlm.train import assembly

    torch.manual_seed(cfg.seed)
    task = assembly.make_task(cfg)
    source = pipeline.train_batches(task, cfg.seed, cfg.batch_size)
    classifier = make_classifier(cfg)
    optimizer, schedule = make_optimizer(cfg, classifier)

    batches = [as_torch(source[step]) for step in range(cfg.num_steps)]
    watch = stopwatch(cfg, classifier, task)
    arguments = transformers.TrainingArguments(
        output_dir="unused",
        max_steps=cfg.num_steps,
        per_device_train_batch_size=cfg.batch_size,
        max_grad_norm=cfg.optim.clip_norm,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=cfg.seed,
    )
    trainer = transformers.Trainer(
        model=classifier,
        args=arguments,
        train_dataset=batches,
        optimizers=(optimizer, schedule),
        callbacks=[watch],
    )
    trainer.get_train_dataloader = lambda: torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.train()
    return watch.best | {"steps_per_second": cfg.num_steps / watch.seconds}


def stopwatch(cfg: Any, classifier: Any, task: Any) -> Any:
    """A callback that has the seconds of steps alone, and the scores of the best epoch."""
    import transformers

    class Stopwatch(transformers.TrainerCallback):
        seconds, started = 0.0, 0.0
        best: dict[str, Any] = {"val": -1.0}

        def on_step_begin(self, args, state, control, **more):
            self.started = time.perf_counter()

        def on_step_end(self, args, state, control, **more):
            self.seconds += time.perf_counter() - self.started
            if state.global_step % cfg.eval_every == 0 or state.global_step == cfg.num_steps:
                val = right(classifier, task, "val").mean()
                print(f"step {state.global_step}  val accuracy {val:.4f}", file=sys.stderr)
                if val > self.best["val"]:
                    self.best = {"val": val, "test": right(classifier, task, "test")}

    return Stopwatch()


def make_classifier(cfg: Any) -> Any:
    """BERT, the mean of its last states, dropout, a linear layer that begins as the run's did."""
    import torch
    from transformers import BertModel
    from transformers.modeling_outputs import SequenceClassifierOutput

    head = first_head(cfg)

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            rates = {"hidden_dropout_prob": cfg.model.dropout, "attention_probs_dropout_prob": 0.0}
            self.bert = BertModel.from_pretrained(cfg.init_from, add_pooling_layer=False, **rates)
            self.dropout = torch.nn.Dropout(cfg.model.dropout)
            self.linear = torch.nn.Linear(self.bert.config.hidden_size, cfg.model.num_labels)
            with torch.no_grad():
                self.linear.weight.copy_(torch.tensor(head["kernel"].T))
                self.linear.bias.copy_(torch.tensor(head["bias"]))

        def forward(self, input_ids, attention_mask, labels=None):
            states = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            real = attention_mask[..., None].to(states.dtype)
            logits = self.linear(self.dropout((states * real).sum(1) / real.sum(1)))
            loss = None if labels is None else torch.nn.functional.cross_entropy(logits, labels)
            return SequenceClassifierOutput(loss=loss, logits=logits)

    return Classifier().train()


def first_head(cfg: Any) -> dict[str, np.ndarray]:
    """The classifier that the run began with."""
    import flax.linen as nn
    import jax

    from jaxlm.train import assembly
    from jaxlm.train.steps.gradient import fresh

    model = assembly.make_model(cfg)
    key, _ = jax.random.split(jax.random.key(cfg.seed))  # as steps/gradient.py: init
    drawn = jax.jit(
        lambda key: nn.unbox(fresh(model, key, assembly.input_shapes(model)))["classifier"]
    )
    return {name: np.array(leaf) for name, leaf in drawn(key).items()}


def make_optimizer(cfg: Any, classifier: Any) -> tuple[Any, Any]:
    """torch's AdamW and our schedule; vectors do not decay."""
    import torch

    from jaxlm.train import optim

    ours = config.build(cfg, "optim")
    if ours.kind != "adamw":
        raise ValueError(f'optim.kind="{ours.kind}": the Trainer is given AdamW')
    decayed = [p for p in classifier.parameters() if p.ndim > 1]
    others = [p for p in classifier.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": ours.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=ours.learning_rate, betas=(ours.b1, ours.b2), eps=ours.eps
    )
    factors = np.asarray(
        optim.make_schedule(ours, 1.0, cfg.num_steps)(np.arange(cfg.num_steps + 1))
    ).tolist()
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[step])


def as_torch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """A batch of ours as the Trainer's collator would make it: as long as its longest text."""
    import torch

    mask = batch["segment_ids"] > 0
    width = int(mask.sum(1).max())
    return {
        "input_ids": torch.tensor(batch["tokens"][:, :width], dtype=torch.long),
        "attention_mask": torch.tensor(mask[:, :width], dtype=torch.long),
        "labels": torch.tensor(batch["targets"][:, 0], dtype=torch.long),
    }


def right(classifier: Any, task: Any, split: str) -> np.ndarray:
    """Of each example of a split, in order, whether the answer is right."""
    import torch

    classifier.eval()
    found = []
    with torch.no_grad():
        for batch in task.eval(split, 64):
            inputs = as_torch(batch)
            answers = classifier(inputs["input_ids"], inputs["attention_mask"]).logits.argmax(-1)
            hits = (answers == inputs["labels"]).numpy()
            found.append(hits[batch["id"] >= 0])
    classifier.train()
    return np.concatenate(found).astype(np.float64)


def table(run: Path, summary: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Both, as lines of Markdown."""
    from jaxlm.eval import bootstrap

    with (run / "predictions_test.jsonl").open(encoding="utf-8") as file:
        ours = np.array([json.loads(line)["score"] for line in file], np.float64)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    val = max(row["val_accuracy"] for row in rows if "val_accuracy" in row)
    speed = summary["final_step"] / summary["train_seconds"]
    lines = ["| | val | test | steps/s |", "|---|---|---|---|"]
    for name, dev, hits, fast in (
        ("jaxlm", val, ours, speed),
        ("transformers' Trainer", theirs["val"], theirs["test"], theirs["steps_per_second"]),
    ):
        error = hits.std(ddof=1) / len(hits) ** 0.5
        lines.append(f"| {name} | {dev:.4f} | {hits.mean():.4f} ± {error:.4f} | {fast:.3f} |")
    ones = np.ones(len(ours))
    pair = [np.stack([hits, ones], 1) for hits in (ours, theirs["test"])]
    found = bootstrap.paired(*pair, "ratio", names=("jaxlm", "transformers"))
    lines.append(
        f"\n{len(ours)} test examples. jaxlm - transformers: {found.difference:+.4f}, 95 % {found.low:+.4f} to "
        f"{found.high:+.4f} ({found.verdict})"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
