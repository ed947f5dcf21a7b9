"""Files with named columns: quoted entries, headers, lists in columns, and what is refused."""

import logging

import pytest

from jaxlm.data import reading, tables
from jaxlm.data.tasks.labelled import LabelledTask
from jaxlm.data.tasks.pairs import PairsTask
from jaxlm.data.tasks.tagged import TaggedTask


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXLM_CACHE", str(tmp_path / "cache"))


def lines(text):
    return text.encode().splitlines(keepends=True)


def test_rows_of_a_csv_file_as_spreadsheets_write_it():
    """A byte-order mark, CRLF, commas, quotes and line breaks in entries, blank lines."""
    text = '\ufeffid,text,label\r\n1,"a, ""b""\r\nc",x\r\n\r\n2,蓝 é,\r\n'
    assert list(tables.csv_rows(lines(text), "a.csv")) == [
        ("a.csv line 2", {"id": "1", "text": 'a, "b"\r\nc', "label": "x"}),
        ("a.csv line 5", {"id": "2", "text": "蓝 é", "label": ""}),
    ]


def test_columns_without_a_name_may_be_several():
    """As spreadsheets write them behind the last column."""
    assert list(tables.csv_rows(lines("a,b,,\n1,2,,\n"), "x"))[0][1] == {"a": "1", "b": "2", "": ""}


def test_json_that_cannot_be_read():
    for text in ("{", "[" * 100_000):
        with pytest.raises(ValueError, match="^x is not JSON: "):
            list(tables.json_rows([text.encode()], "x"))


def test_entries_longer_than_the_csv_module_takes_by_itself():
    ((_, row),) = tables.csv_rows(lines(f"text\n{'a' * 200_000}\n"), "a.csv")
    assert len(row["text"]) == 200_000


@pytest.mark.parametrize(
    "text, message",
    [
        ("a,b\n1,2,3\n", "^x line 2 has 3 columns, and the header 2 columns: a, b$"),
        ('a,b\n1,"2\n3,4\n', "^x line 2 is no row of a .csv file: unexpected end of data"),
        ('a,b\n1,"2"3\n', "^x line 2 is no row of a .csv file: ',' expected after '\"'"),
        ("a,b,a\n1,2,3\n", "^x line 1, its header, names the column 'a' twice$"),
        (b"a,b\n1,\xff\n", "^x line 2 is not UTF-8: byte 2"),
    ],
)
def test_a_broken_csv_file_is_one_clear_line(text, message):
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ValueError, match=message):
        list(tables.csv_rows(raw.splitlines(keepends=True), "x"))


def test_a_tsv_file_whose_first_line_names_the_columns():
    columns = {"text": "data.text_column", "label": "data.label_column"}
    assert tables.has_header(lines("id\tlabel\ttext\n1\tx\ta\n"), "x", columns)
    assert not tables.has_header(lines("good film\t1\n"), "x", columns)
    assert list(tables.tsv_rows(lines('id\ttext\n\n1\t"a\n'), "x")) == [
        ("x line 3", {"id": "1", "text": '"a'})
    ]
    with pytest.raises(
        ValueError,
        match=r"x line 1 has no column 'text' \(it has texts, label\); set data.text_column "
        r'\(did you mean "texts"\?\)',
    ):
        tables.has_header(lines("texts\tlabel\na\t1\n"), "x", columns)


@pytest.mark.parametrize(
    "row, column, separator, expected",
    [
        ({"a": ["x", "y z"]}, "a", None, ["x", "y z"]),
        ({"a": " x  y z "}, "a", None, ["x", "y", "z"]),
        ({"a": "x; y z"}, "a", ";", ["x", "y z"]),
        ({"a": '["x", 1]'}, "a", ";", ["x", 1]),
        ({"a": ""}, "a", ";", []),
        ({"a": "x", "b": "y, z"}, "a+b", None, ["x", "y, z"]),
    ],
)
def test_a_list_in_a_column(row, column, separator, expected):
    assert tables.entries(row, column, "w", "data.x", separator) == expected


def test_what_is_no_list():
    with pytest.raises(ValueError, match="^w: column 'a' is int, no list; set data.x$"):
        tables.entries({"a": 1}, "a", "w", "data.x")
    with pytest.raises(ValueError, match="^w: column 'a' begins as a JSON list and is none"):
        tables.entries({"a": "[1, "}, "a", "w", "data.x")


def write(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_the_same_lines_in_three_kinds_of_file(tmp_path, caplog):
    """With columns in any order and more of them than are asked for."""
    rows = [("good, really", "1"), ('the "worst"', "0"), ("fine", "1"), ("dull", "0")]
    quoted = [(text.replace('"', '""'), label) for text, label in rows]
    files = {
        "a.csv": "n,stars,review\n" + "".join(f'7,{label},"{text}"\n' for text, label in quoted),
        "a.tsv": "stars\treview\n" + "".join(f"{label}\t{text}\n" for text, label in rows),
        "b.tsv": "".join(f"{text}\t{label}\n" for text, label in rows),
    }
    found = {}
    for name, text in files.items():
        caplog.clear()
        columns = {} if name == "b.tsv" else {"text_column": "review", "label_column": "stars"}
        with caplog.at_level(logging.INFO, "jaxlm"):
            config = LabelledTask.Config(
                path=write(tmp_path, name, text), seq_len=24, val_fraction=0.5, **columns
            )
            task = LabelledTask(config)
        assert ("its first line names its columns" in caplog.text) == (name == "a.tsv")
        assert ("its first line names none of its columns" in caplog.text) == (name == "b.tsv")
        batches = [next(task.eval(split, 2)) for split in ("train", "val")]
        found[name] = [{key: batch[key].tolist() for key in sorted(batch)} for batch in batches]
    assert found["a.csv"] == found["a.tsv"] == found["b.tsv"]


def test_lines_are_counted_by_rows_not_by_line_breaks(tmp_path):
    """So that the tokenizer learns, and training reads, the same first rows of a file with breaks in its entries."""
    text = "source,target\n" + "".join(f'"a\n{n}",b{n}\n' for n in range(10))
    task = PairsTask(PairsTask.Config(path=write(tmp_path, "a.csv", text), val_fraction=0.2))
    sizes = {name: split.num_examples for name, split in task.info.splits.items()}
    assert sizes == {"train": 8, "val": 2}
    assert task.example("val", 0)[1] == "a\n8\tb8"
    assert task.splits["train"].table.source.scan()[1] == 10


def test_tags_of_a_csv_file_stand_between_spaces(tmp_path):
    text = "tokens,tags\nAnn in NY,B-PER O B-LOC\na b,O O\n"
    task = TaggedTask(
        TaggedTask.Config(path=write(tmp_path, "a.csv", text), seq_len=12, val_fraction=0.5)
    )
    assert next(task.eval("train", 1))["weights"].sum() == 3
    assert task.info.labels == ("B-LOC", "B-PER", "O")


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("a.csv", "review,stars\na,1\n",
         r"a.csv line 2 has no column 'text' \(it has review, stars\); set data.text_column$"),
        ("a.csv", "text,label\na,1\nb,\n", "a.csv line 3 has no label: column 'label' is ''"),
        ("a.csv", "text,label\n", "a.csv is empty: no line in it"),
        ("a.tsv", "text\tstars\na\t1\n",
         r"a.tsv line 1 has no column 'label' \(it has text, stars\); set data.label_column$"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        LabelledTask(LabelledTask.Config(path=write(tmp_path, name, text), seq_len=8))


def test_files_with_and_without_a_header_do_not_mix(tmp_path):
    write(tmp_path, "a.tsv", "text\tlabel\na\t1\n")
    write(tmp_path, "b.tsv", "b\t2\n")
    with pytest.raises(ValueError, match="data.path: some of these files begin with a header"):
        LabelledTask(LabelledTask.Config(path=str(tmp_path / "?.tsv"), seq_len=8))


def test_text_lines_keep_their_breaks():
    assert list(reading.text_lines([b"\xef\xbb\xbfa\r\n", b"\n", b"b"], "x")) == [
        "a\r\n",
        "\n",
        "b",
    ]
