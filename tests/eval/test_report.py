"""The HTML page: it stands alone, escapes what others wrote, and shows all that a result holds."""

import html.parser
import math
import re

import pytest
from test_results import made

from jaxlm.eval import Row, figures, report

EVIL = '<script>alert("x")</script>'
TABLES = {
    "shots": [{"shots": n, "accuracy": n / 9, "accuracy_stderr": 0.05} for n in (0, 2, 4)],
    "groups": [{"group": EVIL, "examples": 3, "accuracy": None}],
    "domains": [
        {"domain": name, "bits_per_byte": value, "bits_per_byte_stderr": None}
        for name, value in (("prose", 1.5), ("verse", 2.0))
    ],
    "confusion": [
        {"true": "cat", "predicted cat": 3.0, "predicted dog": 1.0},
        {"true": "dog", "predicted cat": 0.0, "predicted dog": 0.0},
    ],
    "calibration": [
        {"above": 0.0, "up_to": 0.5, "answers": 0.0, "confidence": None, "accuracy": None},
        {"above": 0.5, "up_to": 1.0, "answers": 4.0, "confidence": 0.8, "accuracy": 0.75},
    ],
}


class Page(html.parser.HTMLParser):
    """Checks nesting, and gathers tags and text."""

    VOID = {"meta", "wbr", "br", "path", "use", "rect"}

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def page():
    result = made(name=EVIL)
    result.scores.tables.update(TABLES)
    result.scores.rows[0] = Row("accuracy_4shot", 0.75, "fraction", 0.25, f"tok=13a|{EVIL}", True)
    for example in result.scores.examples:
        example |= {"input": "x" * 500, "prediction": EVIL}
    return report.page(result)


def test_the_page_is_whole_and_fetches_nothing(page):
    parsed = Page(page)
    assert "script" not in parsed.tags and "link" not in parsed.tags and "img" not in parsed.tags
    assert "default-src 'none'" in page
    for name, value in parsed.attributes:
        assert name not in ("src", "srcset") and not name.startswith("on"), (name, value)
        if name.endswith("href"):
            assert value.startswith("#"), value
    assert not re.search(r"https?://", page) and "url(" not in page.replace("url(#", "")


def test_what_others_wrote_is_text(page):
    assert EVIL not in page
    assert sum(EVIL in text for text in Page(page).texts) >= 7  # title, name, table, examples


def test_all_that_a_result_holds_is_there(page):
    text = " ".join(" ".join(Page(page).texts).split())
    assert "0.75 ± 0.25" in text and "higher is better" in text
    assert "python -m jaxlm.evaluate --suite 'a b'" in text
    for fact in (
        "a" * 64,
        "b" * 64,
        "c" * 64,
        "jax 0.10.2",
        "1 x cpu (cpu)",
        "averaged (EMA)",
        "1,234",
    ):
        assert fact in text, fact
    assert "Scores by number of shots" in text and "Bits per byte by domain" in text
    assert "confidence in the answer" in text
    assert page.count("<svg") == 3


def test_the_heat_map_shades_by_the_share_of_the_row(page):
    cells = re.findall(
        r"<td[^>]*color-mix\(in srgb, var\(--series-0\) ([\d.]+)%.*?>([^<]+)</td>", page
    )
    assert cells == [("52.5", "3"), ("17.5", "1"), ("0.0", "·"), ("0.0", "·")]


def test_plots_take_the_colours_of_the_page():
    svg = figures.curve(TABLES["shots"], ["accuracy"], "fraction")
    assert "currentColor" in svg and "var(--series-0)" in svg and "#0102" not in svg
    assert svg.startswith('<svg viewBox="') and "DejaVu" not in svg and "<metadata" not in svg
    assert svg == figures.curve(TABLES["shots"], ["accuracy"], "fraction")
    assert "solved examples in the prompt" in svg


def test_names_in_plots_are_text_and_no_formula():
    svg = figures.bars([{"domain": r"a$x_$ <b> $\oops$", "bits": 1.0}], "domain", "bits", "bits")
    assert r"a$x_$ &lt;b&gt; $\oops$" in svg


def test_the_interval_of_a_fraction_ends_at_0_and_1():
    assert figures._interval(0.04, 0.04, "fraction") == [[0.04], [pytest.approx(0.0784)]]
    assert figures._interval(0.04, 0.04, "nats") == [[pytest.approx(0.0784)]] * 2
    assert figures._interval(1.0, math.nan, "fraction") == [[0.0], [0.0]]


@pytest.mark.parametrize(
    ("value", "stderr", "shown"),
    [
        (3.41234, 0.0213, "3.412 ± 0.021"),
        (0.5, 0.25, "0.50 ± 0.25"),
        (12345.678, 120.0, "12,346 ± 120"),
        (5.0, 0.0, "5"),
        (0.123456, math.nan, "0.1235"),
        (math.nan, math.nan, "–"),
        (1.5e30, 2e29, "1.5e+30 ± 2.0e+29"),
    ],
)
def test_as_many_digits_as_the_error_allows(value, stderr, shown):
    assert report.scored(Row("x", value, "", stderr, "")) == shown


def test_best_worst_and_random_examples_are_different_ones():
    examples = [{"id": str(n), "score": float(n)} for n in range(40)] + [{"id": "?", "score": None}]
    chosen = report.chosen_examples(examples)
    ids = {kind: [one["id"] for one in some] for kind, some in chosen.items()}
    assert ids["Best"] == ["39", "38", "37", "36", "35"] and ids["Worst"] == [
        "0",
        "1",
        "2",
        "3",
        "4",
    ]
    assert len(set(ids["Random"]) - {*ids["Best"], *ids["Worst"]}) == 5
    assert report.chosen_examples(examples) == chosen
    assert report.chosen_examples([]) == {}
    assert list(report.chosen_examples(examples[:1])) == ["Random"]


def test_examples_of_several_evaluators_are_not_ranked_together():
    examples = [
        {"id": f"{by}{n}", "score": scale * n, "evaluator": by}
        for by, scale in (("chrf", 100.0), ("loss", -1.0))
        for n in range(2)
    ]
    chosen = report.chosen_examples(examples)
    assert {kind: some[0]["id"] for kind, some in chosen.items()} == {
        "Best by chrf": "chrf1", "Worst by chrf": "chrf0", "Best by loss": "loss0", "Worst by loss": "loss1",
    }  # fmt: skip


def test_the_table_of_the_terminal_names_every_score(capsys):
    report.show(made(name="[/b] :eyes:"))
    shown = capsys.readouterr().out
    assert "choice · [/b] :eyes:" in shown
    assert "accuracy" in shown and "0.75" in shown and "shots=0|tok=x" in shown
