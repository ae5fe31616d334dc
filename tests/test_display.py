"""Objects at a prompt and in a notebook: a few short lines, a small table, and nothing of strangers' left unescaped."""

import sys
import unicodedata
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks.greys import PLAN, Brightness, brightness, named, noisy
from torch import nn

import perturbify
from perturbify import check, checkpoint, display, predict
from perturbify.checks.compare import compare
from perturbify.errors import PerturbifyError

PLAN = replace(PLAN, attacks=("fgsm",), queries=(1,), draws=2)
HOSTILE = "<script>alert(1)</script>\x1b[31m\u202e漢" * 40


@pytest.fixture(scope="module")
def objects():
    net, data = noisy(), named(brightness(4, 4))
    report = check(net, data, PLAN, name=HOSTILE)
    return {
        "plan": net.surgery.plan,
        "report": report,
        "result": report.results[0],
        "prediction": predict(net, torch.rand(5, 3, 6, 6)),
        "comparison": compare({f"net {i} {HOSTILE}".replace("/", ""): Brightness() for i in range(2)}, data, PLAN),
        "header": checkpoint.describe(net),
        "data": replace(data, classes=(HOSTILE, "bright"), name=HOSTILE),
    }


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, attrs))


def columns(line):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


@pytest.mark.parametrize("what", ["plan", "report", "result", "prediction", "comparison", "header", "data"])
def test_a_few_short_lines(what, objects):
    lines = repr(objects[what]).splitlines()
    assert 1 <= len(lines) <= 12 and max(map(columns, lines)) <= 80
    assert "\x1b" not in repr(objects[what])


@pytest.mark.parametrize("what", ["plan", "report", "prediction", "comparison"])
def test_a_notebook_runs_nothing(what, objects):
    page = objects[what]._repr_html_()
    tags = Tags(page).tags
    assert {tag for tag, _ in tags} <= {"div", "p", "strong", "br", "table", "thead", "tbody", "tr", "th", "td"}
    assert not any(attrs for _, attrs in tags) and len(page) < 20_000


def test_a_report_says_what_counts(objects):
    said = repr(objects["report"])
    for word in ("Report: not established", "clean", "worst case", "8 of"):
        assert word in said


@settings(max_examples=200, deadline=None)
@given(st.text(), st.lists(st.tuples(st.text(max_size=8), st.text()), max_size=10))
def test_any_text_fits(title, facts):
    shown = display.lines(title, facts).splitlines()
    assert len(shown) <= 1 + len(facts) and all(columns(line) <= 80 for line in shown)
    assert all(tag in ("div", "p", "strong", "br") for tag, _ in Tags(display.page(title, facts)).tags)


def test_a_frame_has_a_row_each(objects):
    pytest.importorskip("pandas")
    report, comparison = objects["report"], objects["comparison"]
    frame = report.to_frame()
    assert list(frame["id"]) == [r.id for r in report.results]
    assert list(frame["accuracy"]) == [r.accuracy for r in report.results]
    worst = comparison.to_frame().query("id == 'worst'")
    assert list(worst["network"]) == [e.name for e in comparison.entries]


def test_without_pandas(objects, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    for what in ("report", "comparison"):
        with pytest.raises(PerturbifyError, match="pip install pandas"):
            objects[what].to_frame()


class Answers(nn.Module):
    """A convolution whose answer somebody packs."""

    def __init__(self, pack):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pack = pack

    def forward(self, x):
        return self.pack(self.conv(x).mean((2, 3)), self.conv(x))


PACKED = {
    "an output": lambda z, _: {"logits": z},
    "a tuple": lambda z, f: (z, f),
    "a dict": lambda z, f: {"aux": f, "out": z},
}
NONE = {
    "feature maps": (lambda _, f: f, "gives a map of 4×4×4 for each image"),
    "a list of boxes": (lambda z, _: [{"boxes": z}], "answers with list, in which no logits"),
    "a single logit": (lambda z, _: z[:, :1], "a single number for each image"),
}


@pytest.mark.parametrize("form", PACKED)
def test_logits_are_taken_out(form):
    net = perturbify.wrap(Answers(PACKED[form]), "of the method", example_input=torch.rand(2, 3, 6, 6))
    assert predict(net, torch.rand(5, 3, 6, 6)).probabilities.shape == (5, 4)


@pytest.mark.parametrize("form", NONE)
def test_no_logits_is_a_sentence(form):
    pack, said = NONE[form]
    net = perturbify.wrap(Answers(pack), example_input=torch.rand(2, 3, 6, 6))
    with pytest.raises(PerturbifyError, match=said):
        predict(net, torch.rand(5, 3, 6, 6))
