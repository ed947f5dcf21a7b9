"""Tokenise a large set ahead of training.

    python -m jaxlm.prepare --path 'big/*.txt' --tokenizer gpt2 --out DIR --num_processes 8

Then train on it with `--config.data.path=tokens:DIR`. Several processes, each holding about a
megabyte of text at a time; stopped at any moment, the same command goes on with the shards that are
whole. What a set is made of is in data/prepared.py.
"""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from jaxlm import cli
from jaxlm.data import cache, prepared, sources, special_tokens, tokenizers


def run(
    paths: Sequence[str],
    tokenizer: str,
    out: str,
    num_processes: int = 1,
    text_column: str = "text",
    shard_mb: float = 32,
) -> dict[str, Any]:
    """Make a token set, or what is missing of it.

    Args:
      paths: files and globs, of plain texts or of .jsonl records, in the order of the set.
      tokenizer: as `data.tokenizer`.
      out: the folder to make.
      num_processes: how many tokenise at once; the result doesn't depend on it.
      text_column: which entry of a record is the text.
      shard_mb: megabytes of text to a shard.

    Returns:
      The summary: counts, seconds, MB/s.

    Raises:
      ValueError: bad input, or `out` holds something else.
    """
    if num_processes < 1 or shard_mb <= 0:
        raise ValueError(
            f"--num_processes={num_processes}, --shard_mb={shard_mb}: must be positive"
        )
    started = time.perf_counter()
    files = [file for path in paths for file in sources.find_files(path, "--path")]
    source = sources.open_files(" ".join(paths), files, text_column)
    texts = (text for text, _ in source.pieces())
    made_with = special_tokens.base(tokenizers.build(tokenizer, texts))
    plan = prepared.make_plan(source, text_column, made_with, max(1, int(shard_mb * 1e6)))
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with cache.lock(folder / "lock"):
        _claim(folder, plan)
        made_with.save(folder / "tokenizer")
        shards = prepared.shards(plan)
        progress = _Progress(len(shards), sum(size for _, size in plan["files"]))
        made = []
        for facts, kept in _work(shards, plan, folder, num_processes):
            made.append(facts)
            progress.add(facts, kept)
        meta = prepared.publish(plan, made, folder)
    seconds = time.perf_counter() - started
    return {
        "out": str(folder),
        "num_shards": len(shards),
        "kept_shards": progress.kept,
        **{
            key: meta[key]
            for key in ("num_documents", "num_tokens", "num_bytes", "dtype", "digest")
        },
        "seconds": round(seconds, 2),
        "mb_per_second": round(progress.new_bytes / 1e6 / seconds, 2),
    }


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Record the plan in a new folder; insist on the same one in a used folder."""
    path = folder / prepared.PLAN_FILE
    if path.exists():
        old = json.loads(path.read_bytes())
        differing = [key for key in plan if plan[key] != old.get(key)]
        if differing:
            raise ValueError(
                f"--out={folder} holds a set made from something else (it differs in "
                f"{', '.join(differing)}): name another folder, or remove this one"
            )
    else:
        if any(
            file.name not in ("lock", "tokenizer", f"{path.name}.tmp") for file in folder.iterdir()
        ):
            raise ValueError(
                f"--out={folder} is not empty and holds no token set: name another folder"
            )
        temporary = path.with_name(f"{path.name}.tmp")
        cache.write_synced(temporary, json.dumps(plan, indent=1).encode())
        temporary.rename(path)
    for left_over in folder.glob("*.tmp"):
        left_over.unlink()


def _work(
    shards: Sequence[prepared.Shard], plan: dict[str, Any], folder: Path, num_processes: int
) -> Iterator[tuple[dict[str, Any], bool]]:
    if num_processes == 1:
        _start_worker(plan, folder, watch=False)
        yield from map(_make, shards)
        return
    pool = ProcessPoolExecutor(
        num_processes, multiprocessing.get_context("spawn"), _start_worker, (plan, folder, True)
    )
    try:
        for done in as_completed([pool.submit(_make, shard) for shard in shards]):
            yield done.result()
    finally:
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}  # of one worker process: its plan, folder and tokenizer


def _start_worker(plan: dict[str, Any], folder: Path, watch: bool) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _worker.update(plan=plan, folder=folder, tokenizer=tokenizers.load(folder / "tokenizer"))
    if watch:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's: shards begun are finished
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed parent can't stop its workers; they would write where a new run already writes."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _make(shard: prepared.Shard) -> tuple[dict[str, Any], bool]:
    plan, folder = _worker["plan"], _worker["folder"]
    if facts := prepared.finished_shard(shard, folder):
        return facts, True
    return prepared.make_shard(shard, plan, _worker["tokenizer"], folder), False


class _Progress:
    """A line that says how far we are: rewritten on a terminal, else one every few seconds."""

    def __init__(self, num_shards: int, num_bytes: int):
        self._num_shards, self._num_bytes = num_shards, num_bytes
        self._started = self._shown = time.perf_counter()
        self._done = self._done_bytes = self.kept = self.new_bytes = 0

    def add(self, facts: dict[str, Any], kept: bool) -> None:
        size = facts["stop"] - facts["start"]
        self._done, self._done_bytes = self._done + 1, self._done_bytes + size
        self.kept += kept
        self.new_bytes += 0 if kept else size
        now, last = time.perf_counter(), self._done == self._num_shards
        if not (last or sys.stderr.isatty() or now - self._shown > 2):
            return
        self._shown = now
        speed = self.new_bytes / (now - self._started)
        left = f"{(self._num_bytes - self._done_bytes) / speed:.0f} s left" if speed else ""
        line = (
            f"{self._done}/{self._num_shards} shards ({self.kept} kept)  "
            f"{self._done_bytes / 1e6:.1f} of {self._num_bytes / 1e6:.1f} MB  "
            f"{speed / 1e6:.2f} MB/s  {left}"
        )
        if sys.stderr.isatty():
            print(f"\r\033[K{line}", end="\n" if last else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for something that the user can change."""
    parser = cli.Parser("jaxlm.prepare", __doc__.splitlines()[0])
    parser.add_argument(
        "--path", nargs="+", required=True, help="files and globs: texts, or .jsonl"
    )
    parser.add_argument("--tokenizer", required=True, help="as data.tokenizer")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the token set")
    parser.add_argument("--num_processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--text_column", default="text", help="entry of a record that is the text")
    parser.add_argument("--shard_mb", type=float, default=32, help="megabytes of text to a shard")
    options = vars(parser.parse_args(argv))

    def work() -> None:
        try:
            print(json.dumps(run(options.pop("path"), **options)))
        except KeyboardInterrupt:
            print("\nthe same command goes on from the finished shards", file=sys.stderr)
            raise

    return cli.guarded(work)


if __name__ == "__main__":
    sys.exit(main())
