"""Documents cut into passages that say where they stand."""

import json

import pytest

from jaxlm.retrieval.passages import Document, Documents, Passage, cut

TEXT = "The first one. A second sentence!\n\nA new paragraph begins here, and it is longer than the others."


def cuts(text, size, overlap=0):
    return list(cut(Document("a.txt", "", text), size, overlap))


def test_a_passage_ends_between_paragraphs_sentences_or_words():
    assert [one.text for one in cuts(TEXT, 50)] == [
        "The first one. A second sentence!",
        "A new paragraph begins here, and it is longer than",
        "the others.",
    ]
    assert cuts("One two. Three four five", 14)[0].text == "One two."
    assert cuts("abcdefghij", 4) == [
        Passage("a.txt#0", "a.txt", "", 0, 4, "abcd"),
        Passage("a.txt#1", "a.txt", "", 4, 8, "efgh"),
        Passage("a.txt#2", "a.txt", "", 8, 10, "ij"),
    ]
    assert [one.text for one in cuts("他来了。我走了。“好。”再见", 9)] == [
        "他来了。我走了。",
        "“好。”再见",
    ]


def test_a_letter_keeps_its_marks():
    assert [one.text for one in cuts("abce\u0301f", 4)] == ["abc", "e\u0301f"]


@pytest.mark.parametrize("text", [TEXT, "  " + TEXT * 3 + "\n", "没有空格的中文" * 9, "word " * 40])
@pytest.mark.parametrize(("size", "overlap"), [(1, 0), (7, 2), (30, 0), (30, 14), (1000, 100)])
def test_offsets_invert_and_nothing_is_lost(text, size, overlap):
    found = cuts(text, size, overlap)
    covered = set()
    for one in found:
        assert text[one.start : one.end] == one.text and 0 < len(one.text) <= size
        covered |= set(range(one.start, one.end))
    assert {place for place, character in enumerate(text) if not character.isspace()} <= covered
    starts = [one.start for one in found]
    assert starts == sorted(set(starts))
    if overlap == 0:
        assert all(a.end <= b.start for a, b in zip(found, found[1:], strict=False))


def test_an_overlap_begins_with_a_word():
    found = cuts("one two three four five six", 13, 4)
    assert [one.text for one in found] == ["one two three", "four five six"]
    found = cuts("one two three four five six", 13, 5)
    assert [one.text for one in found] == ["one two three", "three four", "four five six"]


def test_an_overlap_never_begins_where_its_passage_did():
    text = "a " + "\u0301" * 30
    assert cuts(text, 8, 3)[-1].end == len(text)


def test_a_document_without_text_has_no_passage():
    assert cuts(" \n ", 10) == []


@pytest.mark.parametrize(("size", "overlap"), [(0, 0), (10, 5), (10, -1)])
def test_refuses_sizes_that_lead_nowhere(size, overlap):
    with pytest.raises(ValueError, match=f"--passage_characters {size} --overlap {overlap}"):
        cuts("text", size, overlap)


def test_documents_of_files_and_of_lines(tmp_path):
    (tmp_path / "b.txt").write_text("two\n")
    (tmp_path / "a.txt").write_text("one")
    found = list(Documents(str(tmp_path / "*.txt")))
    assert found == [
        Document(f"{tmp_path}/a.txt", "", "one"), Document(f"{tmp_path}/b.txt", "", "two\n"),
    ]  # fmt: skip
    path = tmp_path / "c.jsonl"
    path.write_text(json.dumps({"name": "n", "head": "h", "body": "b"}) + "\n")
    assert list(Documents(str(path), "head+body", "name")) == [
        Document(f"{path} line 1", "n", "h\nb")
    ]
    path = tmp_path / "d.tsv"
    path.write_text("text\ttitle\nx\ty\n")
    assert list(Documents(str(path), "text", "title")) == [Document(f"{path} line 2", "y", "x")]


def test_mistakes_name_what_to_change(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text("x\ty\n")
    with pytest.raises(ValueError, match="begins with a line that names its columns, text among"):
        list(Documents(str(path)))
    with pytest.raises(ValueError, match=r"--documents=.*no file matches"):
        Documents(str(tmp_path / "*.txt"))
