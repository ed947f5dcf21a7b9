"""The same fine-tuning as experiments/finetune_classify.py, in transformers on PyTorch, to compare with.

    python tools/finetune_reference.py BERT_FOLDER train.tsv dev.tsv test.tsv --seed 0

Mean of the last states, dropout, one linear layer; AdamW without decay of vectors, linear warm-up and decay, gradients clipped to 1;
the epoch with the best accuracy on dev is reported on test. Batches are of similar lengths and filled up to their longest text. One
thread. Needs the extra [parity].
"""

from __future__ import annotations

import json
import math
import sys
import time

import numpy as np

from jaxlm import cli

MAX_TOKENS = 48
DROPOUT = 0.1
WARMUP_SHARE, WEIGHT_DECAY = 0.06, 0.01
POOL = 1024
"""Texts among which those of similar lengths are put into one batch."""


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("tools.finetune_reference", "Fine-tune a BERT with transformers.")
    parser.add_argument("model", metavar="BERT_FOLDER")
    parser.add_argument("files", nargs=3, metavar="FILE.tsv", help="train, dev and test")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    options = parser.parse_args(argv)
    return cli.guarded(lambda: print(json.dumps(finetune(options))))


def finetune(options) -> dict:
    """Accuracy on dev and test of the best epoch, and the processor's seconds."""
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    train, dev, test = (read(path, tokenizer) for path in options.files)
    classifier = make_classifier(options.model, num_labels=len(set(train[1])))
    size = options.batch_size
    num_steps = options.epochs * (len(train[0]) // size)
    warmup = max(1, int(WARMUP_SHARE * num_steps))
    decayed = [p for p in classifier.parameters() if p.ndim > 1]
    others = [p for p in classifier.parameters() if p.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    best = {"dev": -1.0}
    step = 0
    for epoch in range(1, options.epochs + 1):
        for rows in epoch_batches(train[0], size, rng):
            share = min((step + 1) / warmup, (num_steps - step) / (num_steps - warmup))
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * share
            inputs, labels = batch(train, rows)
            loss = torch.nn.functional.cross_entropy(classifier(*inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(classifier.parameters(), 1.0)
            optimizer.step()
            step += 1
        scores = {"dev": accuracy(classifier, dev), "test": accuracy(classifier, test)}
        print(f"epoch {epoch}  {scores}", file=sys.stderr)
        if scores["dev"] > best["dev"]:
            best = scores | {"epoch": epoch}
    error = math.sqrt(best["test"] * (1 - best["test"]) / len(test[0]))
    return best | {"seed": options.seed, "stderr": error, "cpu_seconds": time.process_time()}


def read(path: str, tokenizer) -> tuple[list[list[int]], list[int]]:
    """Ids and labels of a file of text TAB label."""
    with open(path, encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    texts, labels = [row[0] for row in rows], [int(row[1]) for row in rows]
    return tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"], labels


def make_classifier(path: str, num_labels: int):
    """BERT, the mean of its last states, dropout, a linear layer."""
    import torch
    from transformers import BertModel

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = BertModel.from_pretrained(path, add_pooling_layer=False)
            self.dropout = torch.nn.Dropout(DROPOUT)
            self.linear = torch.nn.Linear(self.bert.config.hidden_size, num_labels)
            torch.nn.init.normal_(self.linear.weight, std=0.02)
            torch.nn.init.zeros_(self.linear.bias)

        def forward(self, ids, mask):
            states = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
            real = mask[..., None].float()
            return self.linear(self.dropout((states * real).sum(1) / real.sum(1)))

    return Classifier().train()


def epoch_batches(texts: list[list[int]], size: int, rng: np.random.Generator) -> list[list[int]]:
    """One epoch's batches, each of texts of similar lengths, in random order."""
    order = rng.permutation(len(texts))
    pools = [
        sorted(order[i : i + POOL], key=lambda row: len(texts[row]))
        for i in range(0, len(order), POOL)
    ]
    found = [pool[i : i + size] for pool in pools for i in range(0, len(pool) - size + 1, size)]
    return [found[i] for i in rng.permutation(len(found))][: len(texts) // size]


def batch(data, rows):
    """((ids, mask), labels) of some rows, filled up to the longest."""
    import torch

    width = max(len(data[0][row]) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(data[0][row])] = torch.tensor(data[0][row])
        mask[place, : len(data[0][row])] = 1
    return (ids, mask), torch.tensor([data[1][row] for row in rows])


def accuracy(classifier, data) -> float:
    """Share of right answers, without dropout."""
    import torch

    classifier.eval()
    right = 0
    with torch.no_grad():
        for start in range(0, len(data[0]), 64):
            inputs, labels = batch(data, range(start, min(start + 64, len(data[0]))))
            right += int((classifier(*inputs).argmax(-1) == labels).sum())
    classifier.train()
    return right / len(data[0])


if __name__ == "__main__":
    sys.exit(main())
