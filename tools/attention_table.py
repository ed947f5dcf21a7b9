"""What each attention backend can do, from its own refusals, as the table of docs/attention.md.

    python tools/attention_table.py            write the table into docs/attention.md
    python tools/attention_table.py --print    show it

The cases are those of tests/layers/test_attention_backends.py, which runs every "yes" against a reference.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from jaxlm.layers import attention_backends
from jaxlm.layers.attention_backends import Spec

PAGE = Path(__file__).resolve().parent.parent / "docs" / "attention.md"
BEGIN = "<!-- begin: python tools/attention_table.py -->\n"
END = "<!-- end -->\n"


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that models ask of attention; sizes are for the test."""

    name: str
    spec: Spec = Spec()
    num_queries: int = 24
    num_keys: int = 24
    kv_heads: int = 4  # of 4
    documents: str = ""  # segment ids: "padded" or "packed"
    dtype: str = "float32"


BIDIRECTIONAL = Spec(causal=False)
PREFIX = Spec(prefix=True)
SEGMENTS = Spec(segments=True)
CASES = (
    Case("causal"),
    Case("bidirectional", BIDIRECTIONAL),
    Case("prefix", PREFIX),
    Case("padding", Spec(causal=False, segments=True), documents="padded"),
    Case("packed segments", SEGMENTS, documents="packed"),
    Case("packed segments, bidirectional", Spec(causal=False, segments=True), documents="packed"),
    Case("cross-attention", Spec(causal=False, cross=True), num_keys=37),
    Case(
        "cross-attention, padded",
        Spec(causal=False, cross=True, segments=True),
        num_keys=37,
        documents="padded",
    ),
    Case("grouped heads", kv_heads=2),
    Case("sliding window", Spec(window=5)),
    Case("soft-cap", Spec(soft_cap=2.0)),
    Case("odd lengths", num_queries=21, num_keys=21),
    Case("odd lengths, bidirectional", BIDIRECTIONAL, num_queries=21, num_keys=21),
    Case("a scale of its own", Spec(causal=False, scale=0.5)),
    Case("ALiBi", Spec(alibi=True)),
    Case("relative bias (T5 encoder)", Spec(causal=False, scale=1.0, relative=(8, 16))),
    Case("relative bias (T5 decoder)", Spec(scale=1.0, relative=(8, 16)), kv_heads=2),
    Case("float32"),
    Case("bfloat16", kv_heads=2, dtype="bfloat16"),
)
HEAD_DIM = {"xla": 8, "blockwise": 8, "cudnn": 64, "splash": 128}


def refusal(backend: str, case: Case) -> str:
    """Why `backend` can't do `case` on a device of its own, or an empty string."""
    dtype = case.dtype
    if backend == "cudnn" and case.name != "float32":
        dtype = "bfloat16"  # or it would refuse all of them for one reason
    return attention_backends.refusal(backend, case.spec, dtype, HEAD_DIM[backend])


def table() -> str:
    """A Markdown table: cases down, backends across, reasons below."""
    lines = [f"| | {' | '.join(HEAD_DIM)} |", "|---|" + "---|" * len(HEAD_DIM)]
    reasons: list[str] = []
    for case in CASES:
        cells = []
        for backend in HEAD_DIM:
            why = refusal(backend, case)
            if why and (line := f"{backend}: {why}.") not in reasons:
                reasons.append(line)
            number = reasons.index(f"{backend}: {why}.") + 1 if why else 0
            unrun = "allowed, not run here" if backend == "cudnn" else "yes"
            cells.append(f"refused ({number})" if why else unrun)
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    notes = [f"{number}. {line}" for number, line in enumerate(reasons, 1)]
    return "\n".join([*lines, "", "Refused because:", "", *notes, ""])


def page() -> str:
    """docs/attention.md with the table as it is now."""
    before, rest = PAGE.read_text().split(BEGIN)
    return before + BEGIN + "\n" + table() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    if sys.argv[1:] == ["--print"]:
        print(table(), end="")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.write_text(page())
