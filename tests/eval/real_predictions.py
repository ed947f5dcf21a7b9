"""What simple baselines answer on bundled lines: predictions that are partly right, in the ways that real ones are."""

import collections
import functools
import json
import random

from jaxlm.data import bundled


@functools.cache
def lines(name):
    return bundled.read(name).decode().splitlines()


@functools.cache
def translations(count=24):
    """(predictions, references): German lines with words left out, swapped and repeated; one is empty, one exact."""
    references = [line.split("\t")[1] for line in lines("en-de")[:count]]
    rng, predictions = random.Random(0), []
    for text in references:
        words = [word for word in text.split() for _ in range(rng.choices((0, 1, 2), (2, 9, 1))[0])]
        if len(words) > 2 and rng.random() < 0.5:
            place = rng.randrange(len(words) - 1)
            words[place], words[place + 1] = words[place + 1], words[place]
        predictions.append(" ".join(words))
    predictions[3], predictions[4] = "", references[4]
    return predictions, references


@functools.cache
def sections(count=60, known=300):
    """(predictions, references, confidences): the section of the package whose description has most words in common."""
    records = [json.loads(line) for line in lines("packages")[: count + known]]
    words = [set(record["description"].lower().split()) for record in records]
    found = []
    for number in range(known, known + count):
        shared = [len(words[number] & words[other]) for other in range(known)]
        best = max(range(known), key=shared.__getitem__)
        sure = shared[best] / (len(words[number] | words[best]))
        found.append((records[best]["section"], records[number]["section"], sure))
    return tuple(zip(*found, strict=True))


@functools.cache
def tags(count=150, known=600):
    """(predictions, references): every word's commonest tag elsewhere, so that an I- stands without its B-."""
    records = [json.loads(line) for line in lines("ner")]
    seen = collections.defaultdict(collections.Counter)
    for record in records[:known]:
        for word, tag in zip(record["tokens"], record["tags"], strict=True):
            seen[word][tag] += 1
    scored = records[known : known + count]
    predictions = [
        [seen[word].most_common(1)[0][0] if word in seen else "O" for word in record["tokens"]]
        for record in scored
    ]
    return predictions, [record["tags"] for record in scored]


def values(rows):
    return {row.name: row.value for row in rows}
