"""Sources: what each gives, how it is digested, and one clear line for whatever can be wrong."""

import hashlib
import json
import sys
import types

import numpy as np
import pytest

from jaxlm.data import bundled, sources


def documents(source):
    """The documents of a source, put together from its pieces; the last may be open."""
    result, held = [], ""
    for text, ends in source.pieces():
        held += text
        if ends:
            result.append(held)
            held = ""
    return result + [held] if held else result


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def records(path, *texts, field="text"):
    return write(path, "".join(json.dumps({field: text}) + "\n" for text in texts))


def test_bundled_index_and_contents():
    assert set(bundled.index()) == {
        *("shakespeare", "speeches", "technical", "poetry", "en-de", "packages", "ner", "glosses"),
        *("trivia", "choice", "dialogue", "digits", "gpt2-vocab", "gpt2-merges"),
    }
    for name, facts in bundled.index().items():
        raw = bundled.read(name)
        assert len(raw) == facts["bytes"] and facts["licence"] and facts["description"]
        raw.decode("utf-8")
        if facts["format"] == "jsonl":
            assert all(isinstance(json.loads(line), dict) for line in raw.splitlines())
    # OpenAI's published digests of vocab.bpe and encoder.json
    digests = {name: bundled.index()[name]["sha256"] for name in ("gpt2-merges", "gpt2-vocab")}
    assert digests["gpt2-merges"].startswith("1ce1664773c50f3e")
    assert digests["gpt2-vocab"].startswith("196139668be63f3b")


def test_a_damaged_bundled_file_is_noticed(monkeypatch):
    facts = {**bundled.entry("trivia"), "sha256": hashlib.sha256(b"").hexdigest()}
    monkeypatch.setattr(bundled, "index", lambda: {"trivia": facts})
    with pytest.raises(ValueError, match="bundled:trivia is damaged"):
        bundled.read("trivia")


def test_parse():
    assert sources.parse("a.txt") == [("a.txt", None)]
    assert sources.parse("a.txt@2, tfds:c4/en:3.0.1@0.5") == [
        ("a.txt", 2.0),
        ("tfds:c4/en:3.0.1", 0.5),
    ]
    assert sources.parse("me@home.txt,b") == [("me@home.txt", None), ("b", None)]


def test_a_file_whose_name_looks_like_a_mixture_is_that_file(tmp_path):
    path = write(tmp_path / "a,b@2", "text")
    assert sources.parse(path) == [(path, None)]
    both = sources.parse(f"{write(tmp_path / 'c@2', 'text')},x")
    assert both[0] == (str(tmp_path / "c@2"), None)


@pytest.mark.parametrize(
    "path, message",
    [
        ("a.txt@1,b.txt", "give every part a weight"),
        ("a.txt@0,b.txt@1", "weight 0 must be positive"),
        ("a.txt@-1", "weight -1 must be positive"),
        ("a.txt@1.2.3", "weight '1.2.3' is not a number"),
        ("a.txt,,b.txt", "has an empty part"),
    ],
)
def test_bad_mixtures_are_refused(path, message):
    with pytest.raises(ValueError, match=message):
        sources.parse(path)


def test_text_files_are_joined_in_order_of_their_names(tmp_path):
    write(tmp_path / "b.txt", "zweite Datei\n")
    write(tmp_path / "a.txt", "\ufefferste 你🙂")
    (tmp_path / "folder.txt").mkdir()
    source = sources.open_source(str(tmp_path / "*.txt"))
    assert list(source.pieces()) == [("erste 你🙂", True), ("zweite Datei\n", False)]
    digest, characters = source.scan()
    assert source.in_characters and characters == len("erste 你🙂zweite Datei\n")
    write(tmp_path / "b.txt", "zweite Datei.")
    assert source.scan()[0] != digest and source.scan()[1] == characters


def test_long_texts_come_in_pieces_that_add_up(tmp_path):
    text = bundled.read("shakespeare").decode()[:300_000] + "你" * 50_000
    source = sources.open_source(write(tmp_path / "a.txt", text))
    pieces = [piece for piece, _ in source.pieces()]
    assert "".join(pieces) == text and 4 < len(pieces) < 20
    assert source.scan()[1] == len(text)


def test_records(tmp_path):
    path = records(tmp_path / "a.jsonl", "one\u2028line", "", "x" * 100_000)
    with open(path, "ab") as file:
        file.write(b"\n  \n" + json.dumps({"text": "last"}).encode())
    source = sources.open_source(path)
    assert documents(source) == ["one\u2028line", "", "x" * 100_000, "last"]
    assert not source.in_characters and source.scan()[1] == 4
    assert sources.open_source(path, "other").scan()[0] != source.scan()[0]


def test_bundled_sources():
    assert documents(sources.open_source("bundled:shakespeare"))[0].startswith("OTHELLO, THE MOOR")
    speeches = sources.open_source("bundled:speeches")
    assert len(documents(speeches)) == speeches.scan()[1] == 98  # rows, says the data pack
    assert len(documents(sources.open_source("bundled:packages", "synopsis"))) == 6809


GOOD = '{"text": "good"}\n'


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"abc\xff", "a.txt is not UTF-8: byte 3 can't be decoded"),
        ("a.txt", b"x" * 40_000 + "é".encode()[:1], "a.txt is not UTF-8: byte 40000 can't"),
        ("a.txt", "é".encode() * 20_000 + b"\xe9x", "a.txt is not UTF-8: byte 40000 can't"),
        ("a.jsonl", GOOD + "\n{bad\n", "a.jsonl line 3 is not JSON: .* at column 2"),
        ("a.jsonl", GOOD + '{"body": 1, "id": 2}', "line 2 has no column 'text' .it has body, id"),
        ("a.jsonl", '{"text": ["a"]}', "line 1: column 'text' is list, not text"),
        ("a.jsonl", "[1]", "line 1 is not a JSON object"),
        ("a.jsonl", GOOD.encode() + b'{"text": "\xff"}', "a.jsonl line 2 is not UTF-8: byte 10"),
        ("a.jsonl", '{"text": "\\ud800"}', "line 1: column 'text' holds half a surrogate pair"),
    ],
)
def test_bad_content_is_named(tmp_path, name, content, message):
    source = sources.open_source(write(tmp_path / name, content))
    with pytest.raises(ValueError, match=message):
        list(source.pieces())
    if name == "a.txt":
        with pytest.raises(ValueError, match=message):
            source.scan()


def test_missing_things_are_named(tmp_path):
    write(tmp_path / "a.txt", "a")
    write(tmp_path / "b.jsonl", GOOD)
    for path, message in (
        (
            str(tmp_path / "none.txt"),
            "data.path=.*none.txt: no such file; accepted: a file or glob",
        ),
        (str(tmp_path / "*.md"), "no file matches"),
        (str(tmp_path), "is a folder: name its files"),
        (str(tmp_path / "*"), "matches .jsonl files and others"),
        ("bundled:shakespear", 'not bundled .did you mean "shakespeare".*accepted: shakespeare, '),
    ):
        with pytest.raises(ValueError, match=message):
            sources.open_source(path)


class FakeRows(list):
    _fingerprint = "f1"


def fake_datasets(monkeypatch, load):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))


def test_hugging_face(monkeypatch):
    asked = []

    def load(*args, **kwargs):
        asked.append((args, kwargs))
        return FakeRows([{"text": "one"}, {"text": "two"}])

    fake_datasets(monkeypatch, load)
    source = sources.open_source("hf:org/name:small")
    assert documents(source) == ["one", "two"] and source.scan()[1] == 2
    assert asked == [(("org/name", "small"), {"split": "train"})]
    assert sources.open_source("hf:org/name").scan()[0] != source.scan()[0]
    assert asked[1] == (("org/name", None), {"split": "train"})


def test_hugging_face_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"hf:a needs .* pip install 'jaxlm\[hf\]'"):
        sources.open_source("hf:a")

    def no_network(*_, **__):
        raise ConnectionError("no route\nlong story")

    fake_datasets(monkeypatch, no_network)
    with pytest.raises(ValueError, match="hf:a can't be loaded .no network.*: no route$"):
        sources.open_source("hf:a")


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    tfds = pytest.importorskip("tensorflow_datasets")

    class JaxlmTiny(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "n": np.int64})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(5):
                yield i, {"text": f"Nr. {i} 你好", "n": i}

    folder = tmp_path_factory.mktemp("tfds")
    JaxlmTiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder


def test_tfds_without_tensorflow(tfds_folder, monkeypatch):
    import tensorflow_datasets as tfds

    real = tfds.data_source
    monkeypatch.setattr(
        tfds, "data_source", lambda name, **k: real(name, data_dir=str(tfds_folder), **k)
    )
    source = sources.open_source("tfds:jaxlm_tiny:1.0.0")
    assert sorted(documents(source)) == [f"Nr. {i} 你好" for i in range(5)]
    assert source.scan()[1] == 5 and "tensorflow" not in sys.modules
    assert documents(sources.open_source("tfds:jaxlm_tiny:text")) == documents(source)
    with pytest.raises(ValueError, match="record 0: column 'n' is int, not text"):
        documents(sources.open_source("tfds:jaxlm_tiny:n"))
    with pytest.raises(ValueError, match="tfds:nosuch can't be loaded.*not found"):
        sources.open_source("tfds:nosuch")
