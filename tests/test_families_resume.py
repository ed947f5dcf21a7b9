"""A run of every family, cut off and gone on with through the command line, ends bit for bit as one that never stopped."""

import json
import shutil
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
LINES = [f"{n} is {n} times one, and {n * n} is {n} squared." for n in range(300)]
LOOP = {"num_steps": 4, "batch_size": 8, "micro_batch_size": 4, "log_every": 1, "eval_every": 2,
        "checkpoint_every": 2, "sample_every": 0, "sample_tokens": 4, "step.ema_decay": 0.9}  # fmt: skip
SMALL = {"model.num_layers": 1, "model.d_model": 16, "model.num_heads": 2, "model.max_len": 32}
TEXT = SMALL | {"data.path": "text.txt"}
CARRIED = {"model.num_layers": 2, "model.d_model": 16, "model.dropout": 0.1,
           "data.path": "text.txt", "data.seq_len": 16}  # fmt: skip
RECURRENT = {"model.d_model": 16, "model.d_hidden": 16, "model.max_len": 32, "model.dropout": 0.1}
TURNS = "{% for m in messages %}{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
TALKS = SMALL | {"data.path": "talks.jsonl", "data.seq_len": 32, "data.chat_template": TURNS}
PAIRS = TALKS | {"data.tokenizer": "bytes", "data.val_path": "", "model.dropout": 0.1}
FAMILIES = {
    "llama_small.py:tiny": TEXT | {"model.num_kv_heads": 1, "model.dropout": 0.1},
    "gpt_small.py:packed": TEXT | {"data.path": "text.jsonl", "data.eval_examples": 4},
    "bert_base.py:tiny": TEXT | {"model.dropout": 0.1},
    "t5_small.py:tiny": TEXT | {"model.dropout": 0.1},
    "finetune_classify.py:tiny": SMALL
    | {"data.path": "labelled.tsv", "data.seq_len": 32, "data.min_count": 1},
    "transformer_translate.py:tiny": SMALL
    | {
        "data.path": "pairs.tsv",
        "data.source_len": 24,
        "data.target_len": 24,
        "data.tokenizer": "bpe:300",
    }
    | {"model.dropout": 0.1},
    "glm_small.py:tiny": TEXT | {"model.dropout": 0.1},
    "moe_small.py:tiny": TEXT | {"model.dropout": 0.1},
    "infill_gpt.py:tiny": TEXT,
    "vlm_digits.py:tiny": SMALL
    | {"data.path": "images.jsonl", "data.target_len": 12, "model.dropout": 0.1},
    "multi_token.py:tiny": TEXT | {"model.num_layers": 3, "model.num_future": 3},
    "chat_smollm2.py:tiny": TALKS | {"model.dropout": 0.1},
    "families/lstm.py": CARRIED,
    "families/mamba.py": CARRIED | {"model.d_state": 4},
    "rnn_translate.py:tiny": RECURRENT
    | {"data.path": "pairs.tsv", "data.source_len": 24, "data.target_len": 24}
    | {"data.tokenizer": "bpe:300"},
    "classify_lstm.py:tiny": RECURRENT | {"data.path": "labelled.tsv", "data.min_count": 1},
    "classify_bag.py:deep": {"model.d_model": 16, "data.path": "labelled.tsv", "data.min_count": 1},
    "dpo.py": PAIRS,
    "dpo.py:kto": PAIRS | {"micro_batch_size": 8},
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": x}) + "\n" for x in LINES))
    labelled = (f"{line}\t{('even', 'odd')[n % 2]}\n" for n, line in enumerate(LINES))
    (tmp_path / "labelled.tsv").write_text("".join(labelled))
    (tmp_path / "pairs.tsv").write_text("".join(f"{n} is {n}\t{n} ist {n}\n" for n in range(300)))
    images = ({"pixels": [n % 17] * 64, "caption": f"grey {n % 17}"} for n in range(300))
    (tmp_path / "images.jsonl").write_text("".join(json.dumps(x) + "\n" for x in images))
    talks = (
        {"turns": [f"{n}?", f"{n}!"], "prompt": f"{n}?", "chosen": f"{n}!", "rejected": "no"}
        for n in range(300)
    )
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(x) + "\n" for x in talks))
    return tmp_path


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [
        (row["step"], row["loss"], row["grad_norm"])
        for row in map(json.loads, lines)
        if row["split"] == "train"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("spec", FAMILIES)
def test_resumed_is_uninterrupted(spec, folder, run_cli):
    settings = LOOP | FAMILIES[spec]
    options = [f"--config.{key}={value}" for key, value in settings.items()]
    line = ["launch", "--config", REPO / "experiments" / spec, *options, "--workdir"]
    run_cli(*line, "whole", check=True)
    shutil.copytree(folder / "whole", folder / "cut")
    shutil.rmtree(folder / "cut" / "checkpoints" / "00000004")
    (folder / "cut" / "summary.json").unlink()
    result = run_cli(*line, "cut", check=True)
    assert "resumed    step 2" in result.stdout
    whole, cut = (
        json.loads((folder / name / "summary.json").read_text()) for name in ("whole", "cut")
    )
    assert whole["state_sha256"] == cut["state_sha256"]
    scores = [name for name in whole if name.startswith("val_")]
    assert [whole[name] for name in scores] == [cut[name] for name in scores]
    assert rows(folder / "whole") == rows(folder / "cut") and len(rows(folder / "cut")) == 4
