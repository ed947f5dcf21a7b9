"""How well a causal model predicts texts: perplexity, bits per byte and per character, by domain."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from jaxlm.eval import Row, Scores
from jaxlm.eval.metric import make_row, unknown_ids
from jaxlm.eval.suites import Found, data

BLOCK = 1024
"""UTF-8 bytes of text that an error bar takes as one unit: the same for every tokenizer, so that models can be paired."""
LONGEST = 1024
"""Tokens of context where no --context is given and the model was trained with more."""
SHOWN = 160  # characters of a block in the report


@dataclasses.dataclass(frozen=True)
class LanguageModelling:
    """Every token of every document once, in windows that slide by `stride`; a document never sees another.

    Every token behind a document's first window is scored with at least context - stride + 1 tokens before it, those of its
    last window with all that fit; stride = context reads each token about once. A document begins behind the token that begins a text (<bos>, else
    <eos>); of a tokenizer without either, its first token is read and not scored, which the signature says.

    Attributes:
      data: files or bundled:NAME, joined by commas; each is a domain.
      text_column: the text of a *.jsonl record.
      context: tokens that a window reads; 0: what the model was trained with, at most 1024.
      stride: tokens by which windows slide; 0: context.
      limit: score at most so many characters of each domain; 0: all.
      batch_size: windows at once.
    """

    data: str = "bundled:shakespeare,bundled:speeches,bundled:technical,bundled:poetry"
    text_column: str = "text"
    context: int = 0
    stride: int = 0
    limit: int = 0
    batch_size: int = 8

    def __post_init__(self):
        for name, least in (("context", 0), ("stride", 0), ("limit", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)} must be at least {least}")
        if self.context and self.stride > self.context:
            raise ValueError(
                f"--stride {self.stride} is more than --context {self.context}: tokens would be left out"
            )

    def run(self, lm: Any) -> Found:
        """Rows of all domains together and of each, and a table of domains.

        Raises:
          ValueError: a model that reads both ways or from a source, or a context that it can't hold.
        """
        context, stride = self._lengths(lm)
        found = data.domains(self.data, self.text_column, self.limit)
        start = lm.begin_id
        scored = [
            _Scored(domain, *self._score(lm, domain, context, stride, start)) for domain in found
        ]
        how = f"context={context}|stride={stride}|tokenizer={lm.tokenizer.name}"
        if start is None:
            how += "|first token of a document not scored"
        if self.limit:
            how += f"|characters<={self.limit} a domain"
        everything = np.concatenate([one.units for one in scored])
        num_unknown = sum(one.num_unknown for one in scored)
        names = ",".join(one.name for one in scored)
        rows = _rows("", everything, how + _unknown(num_unknown) + f"|data={names}")
        for one in scored if len(scored) > 1 else ():
            about = f"{how}{_unknown(one.num_unknown)}|data={one.name}"
            own = _rows(f"_{one.name}", one.units, about)
            rows += [row for row in own if row.name.startswith(("perplexity", "bits_per_byte"))]
        examples = [example for one in scored for example in one.examples]
        scores = Scores(rows, examples, {"domains": [one.line(lm.tokenizer) for one in scored]})
        return Found(scores, {one.name: one.digest for one in scored})

    def _lengths(self, lm: Any) -> tuple[int, int]:
        model = lm.model
        if getattr(model, "direction", "") != "causal":
            raise ValueError(
                f"{type(model).__name__} is no causal language model: it has no perplexity of text. "
                "Its own objective is scored by --suite run"
            )
        if lm.tokenizer is None:
            raise ValueError("this model has no tokenizer: it was not trained on text")
        context = self.context or min(lm.max_len, LONGEST)
        if context > lm.max_len:
            raise ValueError(
                f"--context {context} is more than the {lm.max_len} positions of this model"
            )
        if (self.stride or context) > context:
            raise ValueError(f"--stride {self.stride} is more than the context, {context}")
        return context, self.stride or context

    def _score(
        self, lm: Any, domain: data.Domain, context: int, stride: int, start: int | None
    ) -> tuple[np.ndarray, list[dict[str, Any]], int, int]:
        """Sums of each block of text, examples, how many tokens, and how many of them are unknown."""
        encoded = [np.asarray(lm.tokenizer.encode(text), np.int32) for text in domain.documents]
        skipped = 0 if start is not None else 1
        nll = document_nll(
            lm,
            encoded,
            context=context,
            stride=stride,
            start=start,
            batch_size=self.batch_size,
        )
        token_bytes, unknown = lm.tokenizer.token_bytes(), unknown_ids(lm.tokenizer)
        units, examples = [], []
        for number, (text, ids) in enumerate(zip(domain.documents, encoded, strict=True)):
            units.append(block_sums(text, ids, nll[number], token_bytes))
            examples += _examples(f"{domain.name}/{number}", text, units[-1])
        num_unknown = sum(int(np.isin(ids[skipped:], unknown).sum()) for ids in encoded)
        return np.concatenate(units), examples, sum(map(len, nll)), num_unknown


@dataclasses.dataclass(frozen=True)
class _Scored:
    domain: data.Domain
    units: np.ndarray
    examples: list[dict[str, Any]]
    num_tokens: int
    num_unknown: int

    @property
    def name(self) -> str:
        return self.domain.name

    @property
    def digest(self) -> str:
        return self.domain.digest

    def line(self, tokenizer: Any) -> dict[str, Any]:
        """What the table says of this domain."""
        found = {row.name: row for row in _rows("", self.units, "")}
        return {
            "domain": self.name,
            "documents": len(self.domain.documents),
            "tokens": self.num_tokens,
            "bytes": int(self.units[:, 2].sum()),
            "perplexity": found["perplexity"].value,
            "perplexity_stderr": found["perplexity"].stderr,
            "bits_per_byte": found["bits_per_byte"].value,
            "bits_per_byte_stderr": found["bits_per_byte"].stderr,
            "bits_per_character": found["bits_per_character"].value,
            "unknown_tokens": self.num_unknown / max(1, self.num_tokens),
        }


def _unknown(count: int) -> str:
    """For a signature: with unknown tokens, fewer bits are counted than the text takes."""
    return f"|unknown tokens={count}" if count else ""


def document_nll(
    lm: Any,
    documents: list[np.ndarray],
    *,
    context: int,
    stride: int,
    start: int | None,
    batch_size: int,
) -> list[np.ndarray]:
    """Nats of every token of each document; without a `start`, of all but its first."""

    def rolling(texts: list[np.ndarray], prefix_id: int) -> list[np.ndarray]:
        found = lm.rolling(
            texts,
            max_len=context,
            context=context - stride + 1,
            prefix_id=prefix_id,
            batch_size=batch_size,
        )
        return [-np.asarray(one.per_token, np.float64) for one in found]

    if start is not None:
        return rolling(documents, start)
    return [rolling([ids[1:]], int(ids[0]))[0] for ids in documents]


def block_sums(text: str, ids: np.ndarray, nll: np.ndarray, token_bytes: np.ndarray) -> np.ndarray:
    """Sums over blocks of BLOCK bytes of a text: nats, tokens, bytes, characters, float64 [blocks, 4].

    A token lies in the block that holds its first byte. Bytes and characters are the text's own, so that blocks are the
    same for every tokenizer, but for those of a first token that is not scored; where its tokens' bytes are not those of the
    text (<unk>), places are in proportion.
    """
    raw = text.encode("utf-8")
    count = max(1, -(-len(raw) // BLOCK))
    sizes = np.asarray(token_bytes, np.float64)[ids]
    places = np.cumsum(sizes) - sizes
    places *= len(raw) / max(1.0, sizes.sum())
    skipped = len(ids) - len(nll)
    blocks = np.minimum(places // BLOCK, count - 1).astype(int)[skipped:]
    first = round(np.append(places, len(raw))[skipped])  # byte that is scored
    starts = np.frombuffer(raw, np.uint8) & 0xC0 != 0x80  # of characters
    sums = np.zeros((count, 4))
    sums[:, 0] = np.bincount(blocks, nll, minlength=count)
    sums[:, 1] = np.bincount(blocks, minlength=count)
    for block in range(count):
        part = starts[max(block * BLOCK, first) : (block + 1) * BLOCK]
        sums[block, 2:] = len(part), part.sum()
    return sums


def _rows(suffix: str, units: np.ndarray, signature: str) -> list[Row]:
    """Scores from sums of blocks: nats, tokens, bytes, characters."""
    nats, tokens, num_bytes, characters = units.T
    bits = nats / math.log(2)
    signature += f"|tokens={int(tokens.sum())}|bytes={int(num_bytes.sum())}"
    shown = [
        ("perplexity", nats, tokens, "per token", "exp_ratio"),
        ("loss", nats, tokens, "nats/token", "ratio"),
        ("bits_per_byte", bits, num_bytes, "bits/byte", "ratio"),
        ("bits_per_character", bits, characters, "bits/character", "ratio"),
    ]
    return [
        make_row(
            name + suffix,
            np.stack([above, below], axis=1),
            unit=unit,
            finish=finish,
            signature=signature,
        )
        for name, above, below, unit, finish in shown
    ]


def _examples(name: str, text: str, blocks: np.ndarray) -> list[dict[str, Any]]:
    """A line for each block: how it begins, and what it cost."""
    raw = text.encode("utf-8")
    examples = []
    for block, (nats, _, num_bytes, _) in enumerate(blocks):
        shown = raw[block * BLOCK : (block + 1) * BLOCK].decode("utf-8", errors="ignore")
        bits = nats / math.log(2) / max(1.0, num_bytes)
        examples.append(
            {
                "id": f"{name}/{block}",
                "input": shown[:SHOWN],
                "prediction": f"{bits:.3f} bits/byte",
                "reference": "",
                "score": -bits,
            }
        )
    return examples
