"""Rebuild the bundled corpora: `python tools/build_bundled.py SRC` (the folder of the data pack).

Writes `jaxlm/data/bundled/*.xz` and `index.json`; the same input gives the same bytes. Not part of
the package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
from pathlib import Path

BUNDLED = Path(__file__).resolve().parent.parent / "jaxlm" / "data" / "bundled"
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]

# name, file in SRC, description, licence (NOTICE says more)
CORPORA = (
    ("shakespeare", "prose/small.txt", "1 MB of Shakespeare's plays", "public domain"),
    (
        "speeches",
        "prose/speeches.jsonl",
        "State of the Union addresses, 1793-2020",
        "public domain",
    ),
    (
        "technical",
        "prose/technical.jsonl",
        "manuals of Python 3.11, PostgreSQL 15 and SQLite",
        "PSF-2.0; PostgreSQL; public domain",
    ),
    ("poetry", "chinese/poetry.jsonl", "Tang poems and Song lyrics", "public domain"),
    (
        "en-de",
        "translate/en-de.tsv",
        "English-German pairs from help texts and package descriptions",
        "MPL-2.0; each description under its package's licence",
    ),
    (
        "packages",
        "classify/packages.jsonl",
        "descriptions of Debian packages: section, synopsis, description",
        "each description under its package's licence",
    ),
    ("ner", "tag/ner.jsonl", "US loan agreements, entities PER, ORG, LOC (BIO)", "CC-BY-3.0"),
    ("glosses", "qa/glosses.jsonl", "dictionary questions and definitions", "WordNet-3.0"),
    ("trivia", "qa/trivia.jsonl", "capitals, elements, mythology, presidents", "BSD"),
    (
        "choice",
        "qa/choice.jsonl",
        "qualitative-reasoning and radio-licence questions",
        "CC-BY-4.0; public domain",
    ),
    (
        "dialogue",
        "dialogue/dialogue.jsonl",
        "short exchanges in English, Chinese, German, French",
        "BSD-3-Clause",
    ),
    (
        "digits",
        "image/digits.jsonl",
        "8 x 8 handwritten digits with captions",
        "BSD-3-Clause; CC-BY-4.0",
    ),
    ("gpt2-vocab", "tokenizer/gpt2/vocab.json", "GPT-2 byte-level BPE: 50,257 tokens", "MIT"),
    ("gpt2-merges", "tokenizer/gpt2/merges.txt", "GPT-2 byte-level BPE: 50,000 merges", "MIT"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("src", type=Path)
    parser.add_argument("--out", type=Path, default=BUNDLED)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    index = {}
    for name, source, description, licence in CORPORA:
        raw = (args.src / source).read_bytes()
        file = f"{name}{Path(source).suffix}.xz"
        packed = lzma.compress(raw, format=lzma.FORMAT_XZ, filters=FILTERS)
        (args.out / file).write_bytes(packed)
        index[name] = {
            "file": file,
            "format": Path(source).suffix[1:],
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
            "description": description,
            "licence": licence,
        }
        print(f"{file:24} {len(raw):>9,} -> {len(packed):>9,} bytes")
    text = json.dumps(index, indent=1, ensure_ascii=False) + "\n"
    (args.out / "index.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
