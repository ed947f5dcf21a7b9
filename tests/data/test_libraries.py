"""Pairs and labels from TFDS and Hugging Face: which split, which language, and one line where one is missing."""

import sys
import types

import numpy as np
import pytest

from jaxlm.data import libraries, sources
from jaxlm.data.tasks.labelled import LabelledTask
from jaxlm.data.tasks.pairs import PairsTask


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def tfds_folder(tmp_path_factory):
    """A translation dataset made as the wmt ones are: a config a language pair, records {"de", "en"}."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class JaxlmTranslate(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("de-en", "ro-en")]

        def _info(self):
            features = tfds.features.Translation(languages=("de", "en"))
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            return {"train": self._generate_examples(4), "validation": self._generate_examples(2)}

        def _generate_examples(self, count):
            for i in range(count):
                yield i, {"de": f"Grüße Nr. {i} von {count}", "en": f"greetings no. {i} of {count}"}

    folder = tmp_path_factory.mktemp("tfds")
    builder = JaxlmTranslate(config="de-en", data_dir=str(folder), file_format="array_record")
    builder.download_and_prepare()
    return folder


@pytest.fixture
def tfds(tfds_folder, monkeypatch):
    """As if the dataset were read from where TFDS has its data; no network."""
    import tensorflow_datasets as library

    real = library.data_source
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_folder))
    monkeypatch.setattr(
        library, "data_source",
        lambda name, **k: real(name, data_dir=str(tfds_folder), download=False, **k),
    )  # fmt: skip


EN_DE = {"source_column": "en", "target_column": "de"}


def make(path, kind=PairsTask, **fields):
    return kind(kind.Config(path=path, **fields))


def lines(task, split):
    return [task.example(split, number)[1] for number in range(len(task.splits[split].rows))]


def test_pairs_of_tfds(tfds):
    path = "tfds:jaxlm_translate/de-en"
    task = make(path, val_path=f"{path}@validation", **EN_DE)
    of = {"train": 4, "val": 2}
    for split, count in of.items():
        expected = [
            f"greetings no. {i} of {count}\tGrüße Nr. {i} von {count}" for i in range(count)
        ]
        assert sorted(lines(task, split)) == expected
    batch = next(task.eval("val", 2))
    assert list(zip(batch["input"], batch["reference"], strict=True)) == [
        tuple(line.split("\t")) for line in lines(task, "val")
    ]
    assert "tensorflow" not in sys.modules
    back = make(
        f"{path}:1.0.0@validation", source_column="de", target_column="en", val_fraction=0.5
    )
    assert sorted(lines(back, "train") + lines(back, "val"))[0] == "Grüße Nr. 0 von 2\tgreetings no. 0 of 2"  # fmt: skip
    assert make(path, val_fraction=0.5, **EN_DE).info.digest != back.info.digest


@pytest.mark.parametrize(
    "path, fields, message",
    [
        ("/de-en", {}, r"record 0 has no column 'source' \(it has de, en\); set data.source_column$"),
        ("/de-en", EN_DE | {"target_column": "d"},
         r"""no column 'd' \(it has de, en\); set data.target_column \(did you mean "de"\?\)$"""),
        ("/de-fr", EN_DE, r"""^data.path=tfds:jaxlm_translate/de-fr is not there \(did you mean "de-en"\?\): """
         r"of jaxlm_translate, de-en is prepared here$"),
        ("/de-en@test", EN_DE, "data.path=tfds:jaxlm_translate/de-en@test has no split test: it has train, validation$"),
        ("x/de-en", EN_DE, r"data.path=tfds:jaxlm_translatex/de-en can't be loaded .*not found"),
        ("/de-en", EN_DE | {"val_path": "tfds:jaxlm_translate/de-en"},
         "data.val_path=tfds:jaxlm_translate/de-en names no split: add it, as in .*/de-en@validation$"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_clear_line(tfds, path, fields, message):
    with pytest.raises(ValueError, match=message) as refused:
        make(f"tfds:jaxlm_translate{path}", **fields)
    assert "\n" not in str(refused.value)


def test_texts_of_a_split_of_tfds(tfds):
    source = sources.open_source("tfds:jaxlm_translate/de-en@validation:en")
    assert sorted(text for text, _ in source.pieces()) == [
        f"greetings no. {i} of 2" for i in (0, 1)
    ]
    train = sources.open_source("tfds:jaxlm_translate/de-en:en")
    assert train.scan()[1] == 4 and train.scan()[0] != source.scan()[0]
    named = sources.parse("tfds:a/b@validation@0.3,tfds:a/b:1.0.0@0.7")
    assert named == [("tfds:a/b@validation", 0.3), ("tfds:a/b:1.0.0", 0.7)]


class Fake(list):
    _fingerprint = "f"


@pytest.fixture
def hugging_face(monkeypatch):
    """A list that a test fills, and what was asked of the library."""
    rows, asked = Fake(), []

    def load(*args, **kwargs):
        asked.append((*args, kwargs["split"]))
        return rows

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    return rows, asked


def test_nested_pairs_of_hugging_face(hugging_face):
    rows, asked = hugging_face
    rows += [{"id": 3, "translation": {"de": "ja", "en": "yes"}}] * 2
    fields = {"source_column": "translation.en", "target_column": "translation.de"}
    task = make("hf:wmt16:de-en", val_path="hf:wmt16:de-en@validation", **fields)
    assert lines(task, "train") == ["yes\tja"] * 2
    assert asked == [("wmt16", "de-en", "train"), ("wmt16", "de-en", "validation")]
    with pytest.raises(
        ValueError, match="'en' .it has id, translation.de, translation.en.; set data.s"
    ):
        make("hf:wmt16:de-en", source_column="en")
    with pytest.raises(
        ValueError, match="no column 'translate.de' .* .did you mean \"translation.de\""
    ):
        make("hf:wmt16:de-en", source_column="translate.de")


def test_labels_of_hugging_face(hugging_face):
    hugging_face[0].extend(
        [{"text": "good", "label": np.int64(1)}, {"text": "bad", "label": 0}] * 2
    )
    task = make("hf:imdb", LabelledTask, seq_len=16, val_fraction=0.5)
    assert task.info.labels == ("0", "1") and lines(task, "train") == ["good", "bad"]


def test_records_are_made_plain():
    record = {"a": b"\xc3\xa9", "b": np.array([1, 2]), "c": np.array([b"x"], object), "d": {"e": np.int64(3)}}  # fmt: skip
    assert libraries.plain(record) == {"a": "é", "b": [1, 2], "c": ["x"], "d": {"e": 3}}
    image = b"\x89PNG\xff"
    assert libraries.plain({"image": image}) == {"image": image}
    with pytest.raises(ValueError, match="^w: column 't' is not UTF-8: byte 0 of it"):
        from jaxlm.data import reading

        reading.record_text({"t": b"\xff"}, "t", "w")
