"""A report as people read it: whatever the report, what stands in it arrives, and nothing breaks out."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perturbify.checks.liveness import Liveness
from perturbify.checks.render import to_html, to_markdown, to_text, words
from perturbify.checks.report import NOT_ELIGIBLE, Criterion, Evidence, Example, Point, Report, Row

EPSILON = 8 / 255
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "</style></title><b>",
    "a|b`c*_[x](https://evil.example)\n# head",
    "\x1b[31mred\u202eder &amp; &lt;",
    "]]>--><!--",
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def row(attack="PGD-7", accuracy=0.4, **changes):
    survival = {1: accuracy, 10: accuracy * 0.8, 100: accuracy * 0.5}
    base = Row(
        attack=attack,
        crafted_on="noise on",
        noise="on",
        norm="linf",
        epsilon=EPSILON,
        settings={"steps": 7, "step_size": 0.01, "random_start": True},
        n=200,
        draws=20,
        accuracy=accuracy,
        interval=(accuracy - 0.05, accuracy + 0.05),
        majority=accuracy + 0.01,
        survival=survival,
        clean_survival={1: 0.9, 10: 0.85, 100: 0.7},
        unperturbed=0.0,
        claimed=0.625,
        distance={"linf": EPSILON, "l2": 1.2},
        forward=1,
        gradient=7,
        seconds=75.2,
    )
    return replace(base, **changes)


CLEAN = row("clean", 0.9, norm=None, epsilon=None, claimed=None, settings={}, distance={})
ALIVE = Liveness(20, 18, 2, 18, (), ())
QUIET = Liveness(20, 0, 0, 0, (), ())


def criterion(name, *figures, detail=""):
    evidence = [Evidence(f"first less second, {i}", y, (y - 0.01, y + 0.01), 0.0, 0.02) for i, y in enumerate(figures)]
    return Criterion(name, "The gradient misleads.", tuple(evidence), detail)


PASS, FAIL, OPEN = criterion("holds", -0.1, -0.01), criterion("breaks", -0.1, 0.05), criterion("open", 0.0, 0.015)


def report(*rows, **changes):
    base = Report(
        name="model.safetensors",
        architecture="CifarResNet",
        dataset="cifar10",
        classes=10,
        preset="quick",
        n=200,
        seed=3,
        epsilon=EPSILON,
        deterministic=False,
        noise_mode="fresh",
        liveness=ALIVE,
        rows=rows or (CLEAN,),
        criteria=(),
        machine={"torch": "2.15.0", "threads": 2},
    )
    return replace(base, **changes)


def full(**changes):
    """A report that has everything."""
    sweep = [
        row(f"{name}, ε = {k}/255", 0.9 - k * fall, epsilon=k / 255, points=(Point("epsilon", name, k / 255),))
        for name, fall in (("FGSM", 0.03), ("PGD-7", 0.06))
        for k in (1, 2, 4, 8)
    ]
    eot = [row(f"EOT-PGD-7, {k} draws", 0.4 - k / 500, points=(Point("draws", "EOT-PGD-7", k),)) for k in (1, 5, 20)]
    long = [row(f"PGD-{k}", 0.4 - k / 1000, points=(Point("steps", "PGD", k),)) for k in (7, 20, 50)]
    others = [
        row("PGD-7 transfer", crafted_on="noise off"),
        row("C&W, κ = 0", 0.7, norm="l2", epsilon=None, n=64),
        row("clean", 0.88, norm=None, epsilon=None, network="vanilla.safetensors", claimed=None),
    ]
    values = {
        "criteria": (PASS, FAIL, OPEN, criterion("silent", detail="Not measured.")),
        "examples": (Example("cat", PIXEL, PIXEL, PIXEL, 1.0, 0.25),) * 3,
        "example_attack": "PGD-7",
        "remarks": ("Not run, for want of foolbox: C&W.",),
        "about": {"method": "learn2perturb", "trained": {"epochs": 7}, "recipe": "[train]\nepochs = 7\n"},
    }
    return report(CLEAN, *sweep, *eot, *long, *others, **values | changes)


RENDERERS = (to_text, to_markdown, to_html)

names = st.one_of(st.text(max_size=12), st.sampled_from(HOSTILE))
shares = st.floats(0, 1)
figures = st.floats(-1, 1)
intervals = st.tuples(figures, figures).map(lambda pair: tuple(sorted(pair)))
counts = st.dictionaries(st.sampled_from((1, 5, 10, 100)), shares)
json_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(-1e9, 1e9), names)
facts = st.dictionaries(names, json_values, max_size=3)
rows = st.builds(
    Row,
    attack=names,
    crafted_on=st.one_of(st.sampled_from(("noise on", "noise off", "frozen noise")), names),
    noise=st.sampled_from(("on", "off")),
    norm=st.sampled_from((None, "linf", "l2", "l0")),
    epsilon=st.one_of(st.none(), st.sampled_from((0.0, EPSILON, 1.0)), st.floats(0, 10)),
    settings=facts,
    n=st.integers(1, 10_000),
    draws=st.integers(1, 100),
    accuracy=shares,
    interval=st.tuples(shares, shares).map(lambda pair: tuple(sorted(pair))),
    majority=shares,
    survival=counts,
    clean_survival=counts,
    unperturbed=shares,
    claimed=st.one_of(st.none(), shares),
    distance=st.dictionaries(st.sampled_from(("linf", "l2")), st.floats(0, 100)),
    forward=st.floats(0, 1e5),
    gradient=st.floats(0, 1e5),
    seconds=st.floats(0, 1e6),
    points=st.lists(
        st.builds(Point, st.sampled_from(("epsilon", "draws", "steps")), names, st.floats(0, 100)), max_size=2
    ).map(tuple),
    network=st.one_of(st.just("itself"), names),
)
pieces = st.builds(Evidence, names, figures, intervals, figures, st.floats(0, 0.1))
reports = st.builds(
    Report,
    name=names,
    architecture=names,
    dataset=names,
    classes=st.integers(2, 1000),
    preset=names,
    n=st.integers(1, 10_000),
    seed=st.integers(0, 2**32),
    epsilon=st.floats(0, 1),
    deterministic=st.booleans(),
    noise_mode=st.sampled_from(("none", "fresh", "shared", "foreign", "new")),
    liveness=st.builds(
        Liveness,
        *[st.integers(0, 9)] * 4,
        dead=st.lists(names, max_size=2).map(tuple),
        below_floor=st.lists(names, max_size=2).map(tuple),
    ),
    rows=st.lists(rows, max_size=6).map(lambda found: (CLEAN, *found)),
    criteria=st.lists(
        st.builds(Criterion, names, names, st.lists(pieces, max_size=3).map(tuple), names), max_size=3
    ).map(tuple),
    machine=facts,
    examples=st.lists(
        st.builds(Example, names, st.just(PIXEL), st.one_of(st.just(PIXEL), names), st.just(PIXEL), shares, shares),
        max_size=2,
    ).map(tuple),
    example_attack=st.one_of(st.none(), names),
    remarks=st.lists(names, max_size=2).map(tuple),
    about=facts,
)


class Page(HTMLParser):
    """Reads a page strictly: balanced tags, nothing that asks for anything outside, nothing that runs."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "form", "a"), tag
        for key, value in attrs:
            assert not key.startswith("on") and key not in ("href", "xlink:href", "srcset", "action", "style"), key
            assert key != "src" or value.startswith("data:image/png;base64,"), value
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        pytest.fail(f"a comment: {data}")

    def handle_data(self, data):
        if self.open:
            self.text[self.open[-1]] = self.text.get(self.open[-1], "") + data


def table_widths(markdown):
    """The numbers of cells of the rows of each table."""
    blocks = [block for block in re.split(r"\n(?!\|)", markdown) if block.startswith("|")]
    return [{len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()} for block in blocks]


@settings(max_examples=60, deadline=None)
@given(reports)
def test_any_report_renders_and_none_breaks_out(found):
    assert Report.from_dict(json.loads(found.to_json())) == found
    page = Page(to_html(found))
    assert page.text.get("h1", "").strip() == words.line(found.name).strip()
    assert "url(" not in page.text["style"] and "@import" not in page.text["style"]
    assert not [c for c in to_text(found) if not c.isprintable() and c != "\n"]
    markdown = to_markdown(found)
    assert all(len(widths) == 1 for widths in table_widths(markdown))
    assert "<" not in markdown and "](" not in markdown.replace("\\](", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(name):
    hostile = full(name=name, dataset=name, remarks=(name,), example_attack=name)
    assert words.line(name).strip() in Page(to_html(hostile)).text["h1"]
    assert "\x1b" not in to_text(hostile)


def test_the_same_report_gives_the_same_bytes():
    again = Report.from_dict(json.loads(full().to_json()))
    assert [render(full()) for render in RENDERERS] == [render(again) for render in RENDERERS]


def test_examples_that_are_no_pictures_are_left_out():
    bad = replace(full().examples[0], adversarial="https://evil.example/x.png")
    assert Page(to_html(full(examples=(bad, *full().examples)))).tags.count("img") == 9
    assert "img" not in Page(to_html(full(examples=(bad,)))).tags


@pytest.mark.parametrize("render", RENDERERS)
def test_the_figures_are_there(render):
    said = render(full()).replace("\\", "")
    for figure in ("90.0 [85.0, 95.0]", "l∞ 8/255", "l2, median 1.2", "32.0 (85.0)", "20.0 (70.0)", "62.5"):
        assert figure in said, figure
    for figure in ("5.0 [4.0, 6.0], at most 0.0 + 2.0", "Not measured.", "cifar10", "seed 3", NOT_ELIGIBLE):
        assert figure in said, figure
    assert "alive at 18 sites behind 18 of 20 convolution calls, 2 skipped on purpose" in said
    assert "vanilla.safetensors" in said


def test_the_terminal_shows_the_worst_evidence_of_each_criterion():
    said = to_text(full())
    assert re.search(r"breaks +FAIL +first less second, 1: 5\.0 ", said)
    assert re.search(r"holds +pass +first less second, 1: -1\.0 ", said)
    assert re.search(r"open +undecided +first less second, 1: 1\.5 ", said)
    assert re.search(r"silent +undecided +Not measured\.", said)


DEAD = replace(ALIVE, dead=("layer1.0",))
VERDICTS = {
    "passed": (report(criteria=(PASS,)), "pass", "Passed: 1 of 1 criteria hold."),
    "failed": (report(criteria=(PASS, FAIL, OPEN)), "fail", "Failed: this criterion does not hold: “breaks”."),
    "dead": (
        report(criteria=(PASS, FAIL), liveness=DEAD),
        "fail",
        "Failed: these 2 criteria do not hold: “the noise is alive”, “breaks”.",
    ),
    "undecided": (report(criteria=(PASS, OPEN)), "undecided", "No criterion failed; 1 of 2 undecided: “open”."),
    "untested": (report(), "undecided", "No criterion was tested; these are figures alone."),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict(name):
    found, verdict, sentence = VERDICTS[name]
    assert words.verdict(found) == (verdict, sentence)
    assert (verdict == "fail") is not found.passed  # as the exit status says
    assert to_text(found).endswith(sentence)
    assert f'class="banner {verdict}"' in to_html(found)
    assert sentence in to_markdown(found)


def test_a_plot_without_data_is_left_out():
    titles = ("Accuracy against ε", "Accuracy against the draws", "Accuracy against steps", "Survival of")
    assert [title in to_html(full()) for title in titles] == [True] * 4
    once = row(points=(Point("draws", "EOT-PGD-7", 1),), survival={}, clean_survival={})
    bare = report(replace(CLEAN, survival={}, clean_survival={}), once)
    assert [title in to_html(bare) for title in titles] == [False] * 4
    assert "figure" not in Page(to_html(bare)).tags


def test_a_plot_tells_its_figures_to_those_who_cannot_see_it():
    (label,) = re.findall(r'aria-label="(Accuracy against ε[^"]*)"', to_html(full()))
    assert "PGD-7: 1 84.0, 2 78.0, 4 66.0, 8 42.0" in label


def test_a_deterministic_network_has_no_draws_to_survive():
    rows = [replace(r, noise="off", crafted_on="noise off", draws=1, survival={10: r.accuracy}) for r in (CLEAN, row())]
    plain = report(*rows, deterministic=True, noise_mode="none", liveness=QUIET)
    for render in RENDERERS:
        assert NOT_ELIGIBLE not in render(plain) and "majority %" not in render(plain)
    assert "none in this network" in to_text(plain) and "Survival" not in to_html(plain)


@pytest.mark.parametrize(
    ("norm", "epsilon", "said"),
    [
        ("linf", 4 / 255, "l∞ 4/255"),
        ("linf", 0.1, "l∞ 0.1"),
        ("linf", 1.0, "l∞ 1"),
        ("l2", 0.5, "l2 0.5"),
        ("l0", 3, "l0 3"),
        ("l2", None, "l2, median 1.2"),
        ("l0", None, "l0, no bound"),
        (None, None, "–"),
    ],
)
def test_a_radius_as_the_field_writes_it(norm, epsilon, said):
    assert words.radius(row(norm=norm, epsilon=epsilon)) == said


def test_no_figure_is_minus_nothing():
    assert words.percent(-0.0001, (-0.02, -0.0)) == "0.0 [-2.0, 0.0]"


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def in_browser(page, profile):
    """Loads a page; its document as the browser understood it, and what it wrote to the console."""
    ran = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"),
            *("--enable-logging=stderr", "--v=0", "--dump-dom", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return ran.stdout, [line for line in ran.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")
def test_a_browser_has_nothing_to_complain_of(tmp_path):
    page = tmp_path / "report.html"
    page.write_text(to_html(full(name=HOSTILE[0])), encoding="utf-8")
    document, complaints = in_browser(page, tmp_path / "profile")
    assert complaints == []
    assert "Accuracy against ε" in document and "<script" not in document


@pytest.mark.skipif(BROWSER is None, reason="no Chromium here (Debian: apt-get install chromium)")
@pytest.mark.parametrize(
    "fault",
    ["<script>console.error('broken')</script>", '<img src="https://evil.example/x.png">'],
    ids=["script", "request"],
)
def test_a_browser_would_complain_of_a_fault(fault, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(to_html(full()).replace("</main>", f"{fault}</main>"), encoding="utf-8")
    _, complaints = in_browser(page, tmp_path / "profile")
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]
    page.write_text("<!doctype html><title>x</title><script>console.error('broken')</script>", encoding="utf-8")
    _, complaints = in_browser(page, tmp_path / "profile")
    assert len(complaints) == 1 and "broken" in complaints[0]
