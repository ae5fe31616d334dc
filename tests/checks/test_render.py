"""A report as people read it: whatever the report, what stands in it arrives, and nothing breaks out."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from networks.results import ALIVE, EPSILON, QUIET, first, result

from perturbify.checks import PRESETS
from perturbify.checks.cases import Subject, cases
from perturbify.checks.evidence import Criterion, Evidence
from perturbify.checks.gradients import ALIVE as ALIVE_GRADIENT
from perturbify.checks.liveness import Liveness
from perturbify.checks.render import to_html, to_markdown, to_text, words
from perturbify.checks.report import NOT_ELIGIBLE, Report
from perturbify.checks.results import Answers, Example, Figure, Point, Result
from perturbify.errors import CheckError
from perturbify.escape import terminal

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "</style></title><b>",
    "a|b`c*_[x](https://evil.example)\n# head",
    "\x1b[31mred\u202eder &amp; &lt;",
    "]]>--><!--",
    "one\r\ntwo\ttabs\x85three\u2028four\x9b31m",
    "- [ ] a list",
    "1) another",
    "    code",
    "---",
    "zero\u200bwidth\ufeff\u2066isolated\U000e0041 and \udcff no UTF-8",
    "x" * 60_000,
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


def row(id="pgd", accuracy=0.4, role="white box", **changes):
    """200 images by 20 draws, each image always right or always wrong."""
    survival = {q: Figure(accuracy * s, (accuracy * s - 0.02, accuracy * s + 0.02)) for q, s in ((1, 1), (10, 0.8))}
    values = {"survival": survival, "claimed": None if role == "clean" else 0.625} | changes
    draws = values.pop("draws", 20)
    right = first(round(200 * accuracy), 200, draws)
    return replace(result(id, right, role), **values)


CLEAN = row("clean", 0.9, "clean")


def criterion(name, *figures, detail="", core=True):
    evidence = [Evidence(f"first less second, {i}", y, (y - 0.01, y + 0.01), 0.0, 0.02) for i, y in enumerate(figures)]
    return Criterion(name, "The gradient misleads.", tuple(evidence), core, detail)


PASS, FAIL, OPEN = criterion("holds", -0.1, -0.01), criterion("breaks", -0.1, 0.05), criterion("open", 0.0, 0.015)
DEAD = Criterion(ALIVE_GRADIENT, "why", (Evidence("images without", 0.87, (0.8, 0.9), 0.0, 0.05),))


def report(*results, **changes):
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
        results=results or (CLEAN,),
        criteria=(),
        machine={"torch": "2.15.0", "threads": 2},
    )
    return replace(base, **changes)


def full(**changes):
    """A report that has everything."""
    sweep = [
        row(f"{line} at {k}", 0.9 - k * fall, "sweep", epsilon=k / 255, points=(Point("epsilon", line, k / 255),))
        for line, fall in (("FGSM", 0.03), ("PGD-7", 0.06))
        for k in (1, 2, 4, 8)
    ]
    eot = [row(f"EOT-PGD-7, {k} draws", 0.4 - k / 500, points=(Point("draws", "EOT-PGD-7", k),)) for k in (1, 5, 20)]
    long = [row(f"PGD-{k}", 0.4 - k / 1000, points=(Point("steps", "PGD", k),)) for k in (7, 20, 50)]
    others = [
        row("twin-margin", 0.3, "other", on="twin", noise="off", draws=1),
        row("PGD-7 transfer", on="twin", role="black box"),
        row("margin", 0.35),
        row("C&W, κ = 0", 0.7, "other", norm="l2", epsilon=None),
        row("square", 0.35, "black box", attacked=70, survival={}),
        row("clean of vanilla.safetensors", 0.88, "clean", network="vanilla.safetensors"),
        row("margin of vanilla.safetensors", 0.2, network="vanilla.safetensors", attack="margin"),
    ]
    values = {
        "criteria": (PASS, FAIL, OPEN, criterion("silent", detail="Not measured.")),
        "examples": (Example("cat", PIXEL, PIXEL, PIXEL, "cat", "a dog", 1.0, 0.25),) * 3,
        "example_attack": "margin",
        "baseline": "vanilla.safetensors",
        "remarks": ("Not run, for want of foolbox: C&W.",),
        "about": {"method": "learn2perturb", "trained": {"epochs": 7}, "recipe": "[train]\nepochs = 7\n"},
    }
    return report(CLEAN, *sweep, *eot, *long, *others, **values | changes)


RENDERERS = (to_text, to_markdown, to_html)

names = st.one_of(st.text(max_size=12), st.sampled_from(HOSTILE))
shares = st.floats(0, 1)
numbers = st.floats(-1, 1)
intervals = st.tuples(numbers, numbers).map(lambda pair: tuple(sorted(pair)))
figures = st.builds(Figure, shares, st.tuples(shares, shares).map(lambda pair: tuple(sorted(pair))))
json_values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(-1e9, 1e9), names)
facts = st.dictionaries(names, json_values, max_size=3)
radii = st.one_of(st.none(), st.sampled_from((0.0, EPSILON, 1.0)), st.floats(0, 10))
roles = ("one step", "white box", "longer", "black box", "frozen", "unbounded", "sweep", "other")


@st.composite
def attacks(draw, i):
    right = draw(arrays(np.bool_, (6, 4)))
    epsilon, norm = draw(radii), draw(st.sampled_from(("linf", "l2", "l0")))
    points = st.builds(Point, st.sampled_from(("epsilon", "draws", "steps")), names, st.floats(0, 100))
    return Result(
        id=f"{i} {draw(names)}",
        attack=draw(names),
        role=draw(st.sampled_from(roles)),
        on=draw(st.sampled_from(("itself", "twin", "frozen", "known", "other"))),
        source=draw(st.one_of(st.none(), names)),
        noise=draw(st.sampled_from(("on", "off"))),
        norm=norm,
        epsilon=epsilon,
        settings=draw(facts),
        answers=Answers.of(right),
        attacked=draw(st.integers(0, 6)),
        shared=draw(st.booleans()),
        majority=draw(figures),
        survival=draw(st.dictionaries(st.sampled_from((1, 5, 10, 100)), figures)),
        unperturbed=draw(shares),
        claimed=draw(st.one_of(st.none(), shares)),
        distance=draw(st.dictionaries(st.sampled_from(("linf", "l2")), st.floats(0, 100))),
        forward=draw(st.floats(0, 1e5)),
        gradient=draw(st.floats(0, 1e5)),
        seconds=draw(st.floats(0, 1e6)),
        points=tuple(draw(st.lists(points, max_size=2))),
        network=draw(st.sampled_from(("itself", "itself", "a|<b>"))),
    )


pieces = st.builds(Evidence, names, numbers, intervals, numbers, st.floats(0, 0.1))
judgements = st.builds(
    Criterion,
    st.one_of(names, st.just(ALIVE_GRADIENT)),
    names,
    st.lists(pieces, max_size=3).map(tuple),
    st.booleans(),
    names,
)


@st.composite
def reports(draw):
    clean = result("clean", draw(arrays(np.bool_, (6, 4))), "clean")
    theirs = replace(clean, id="clean of a|<b>", network="a|<b>")
    return Report(
        name=draw(names),
        architecture=draw(names),
        dataset=draw(names),
        classes=draw(st.integers(2, 1000)),
        preset=draw(names),
        n=6,
        seed=draw(st.integers(0, 2**32)),
        epsilon=draw(shares),
        deterministic=draw(st.booleans()),
        noise_mode=draw(st.sampled_from(("none", "fresh", "shared", "weights", "foreign", "new"))),
        liveness=draw(
            st.builds(
                Liveness,
                *[st.integers(0, 9)] * 4,
                dead=st.lists(names, max_size=2).map(tuple),
                below_floor=st.lists(names, max_size=2).map(tuple),
            )
        ),
        results=(clean, theirs, *(draw(attacks(i)) for i in range(draw(st.integers(0, 5))))),
        criteria=tuple(draw(st.lists(judgements, max_size=3))),
        machine=draw(facts),
        baseline=draw(st.sampled_from((None, "a|<b>"))),
        examples=tuple(
            draw(
                st.lists(
                    st.builds(
                        Example,
                        names,
                        st.just(PIXEL),
                        st.one_of(st.just(PIXEL), names),
                        st.just(PIXEL),
                        names,
                        names,
                        shares,
                        shares,
                    ),
                    max_size=2,
                )
            )
        ),
        example_attack=draw(st.one_of(st.none(), names)),
        remarks=tuple(draw(st.lists(names, max_size=2))),
        about=draw(facts),
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
@given(reports())
def test_any_report_renders_without_breaking_out(found):
    assert Report.from_dict(json.loads(found.to_json())) == found
    page = Page(to_html(found))
    assert page.text.get("h1", "").strip() == terminal(found.name).strip()
    assert "url(" not in page.text["style"] and "@import" not in page.text["style"]
    assert not [c for c in to_text(found) if not c.isprintable() and c != "\n"]
    markdown = to_markdown(found)
    assert all(len(widths) == 1 for widths in table_widths(markdown))
    assert "<" not in markdown and "](" not in markdown.replace("\\](", "")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text(name):
    hostile = full(name=name, dataset=name, remarks=(name,), example_attack=name)
    assert terminal(name).strip() in Page(to_html(hostile)).text["h1"]
    assert "\x1b" not in to_text(hostile)
    baseline = named_baseline(name or "-")
    Page(to_html(baseline))
    for text in (to_text(baseline), to_markdown(baseline), to_html(baseline)):
        assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert len(to_markdown(baseline).splitlines()) == len(to_markdown(named_baseline("word")).splitlines())


def leaves(values, path=()):
    """The paths of all strings in JSON values, keys of dicts among them."""
    if isinstance(values, dict):
        for key, value in values.items():
            yield from leaves(value, (*path, key))
    elif isinstance(values, list):
        for i, value in enumerate(values):
            yield from leaves(value, (*path, i))
    elif isinstance(values, str):
        yield path


def put(values, path, text):
    copy = json.loads(json.dumps(values))
    *way, last = path
    at = copy
    for key in way:
        at = at[key]
    at[last] = text
    return copy


def test_every_string_of_a_report_may_be_hostile():
    """A report.json may come from anywhere: whatever is in it is refused, or shown and does nothing."""
    values, lines, shown = full().to_dict(), len(to_markdown(full()).splitlines()), 0
    some = [path for path in leaves(values) if path[0] != "results" or path[1] in (0, 9, 17)]
    # Names that stand for another result must be that one's; the baseline's has a test of its own.
    paths = [path for path in some if path[-1] not in ("baseline", "network", "role", "id")]
    for path in paths:
        for poison in ("\x1b[2J\x9b31m\r\n| <b>`x`\u202e\u2066\u200b\u2028# [x](y) |$", "\udcff" * 60_000):
            try:
                found = Report.from_dict(put(values, path, poison))
                texts = [render(found) for render in RENDERERS]
            except CheckError:
                continue
            for text in (*texts, found.to_json()):
                assert not [c for c in text if not c.isprintable() and c != "\n"], path
            assert max(len(line) for text in texts for line in text.splitlines()) < 60_000, path
            Page(texts[2])
            if path[0] not in ("results", "criteria"):
                assert len(texts[1].splitlines()) == lines, path
            shown += 1
    assert shown > 60


def test_the_same_report_gives_the_same_bytes():
    again = Report.from_dict(json.loads(full().to_json()))
    assert [render(full()) for render in RENDERERS] == [render(again) for render in RENDERERS]


def test_each_example_is_captioned_with_its_predictions():
    said = to_html(full())
    strip = said[said.index("<h2>Examples</h2>") : said.index("<h2>All attacks</h2>")]
    assert strip.count("<td>cat, 100% right</td>") == 3 and strip.count("<td>a dog, 25% right</td>") == 3
    assert "under margin, the class predicted by most fresh draws" in strip


def test_examples_without_pictures_are_left_out():
    bad = replace(full().examples[0], adversarial="https://evil.example/x.png")
    assert Page(to_html(full(examples=(bad, *full().examples)))).tags.count("img") == 9
    assert "img" not in Page(to_html(full(examples=(bad,)))).tags


@pytest.mark.parametrize("render", RENDERERS)
def test_the_figures_are_there(render):
    said = flat(render(full()))
    for figure in ("90.0 [", "FGSM at 4", "C&W, κ = 0", "70 of 200" if render is to_text else "62.5"):
        assert figure in said, figure
    assert "1.5 [0.5, 2.5] (limit 0.0, tolerance 2.0)" in said, "what is open says by how much"
    for figure in ("Not measured.", "cifar10", "seed 3", NOT_ELIGIBLE, "vanilla.safetensors"):
        assert figure in said, figure
    assert "alive at 18 sites behind 18 of 20 convolution calls, 2 skipped on purpose" in said
    for name, figure in full().resubmissions.items():
        assert name in said and f"{100 * figure.value:.1f}" in said


def flat(said):
    """Without what belongs to the form."""
    bare = said.replace("\\", "").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
    return " ".join(bare.split())


@pytest.mark.parametrize("render", [to_markdown, to_html])
def test_the_long_forms_have_every_figure(render):
    said = flat(render(full()))
    for figure in ("l∞ 8/255", "l2, median 1.2", "32.0 (72.0)", "62.5", "5.0 [4.0, 6.0] (limit 0.0, tolerance 2.0)"):
        assert figure in said, figure


@pytest.mark.parametrize("render", RENDERERS)
def test_every_format_states_the_conclusion_first(render):
    """Of 100 images; what the noise adds; what it is ahead of the baseline."""
    said = flat(render(full()))
    assert "Of 100 images, 90 are classified correctly without an attack, and 35 [" in said
    assert "in the worst case of 17 attacks within l∞ 8/255." in said
    assert "The noise itself adds 5.0 [" in said
    assert "Compared with vanilla.safetensors under the same attacks, this network gains" in said
    assert said.index("Of 100 images") < said.index("FGSM at 4"), "before all tables"


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        (Figure(0.05, (0.01, 0.09)), "The noise itself adds 5.0 [1.0, 9.0] points."),
        (
            Figure(-0.01, (-0.05, 0.03)),
            "The noise itself adds nothing that this check can confirm: -1.0 [-5.0, 3.0] points.",
        ),
        (Figure(-0.05, (-0.09, -0.01)), "The noise itself costs 5.0 [1.0, 9.0] points."),
    ],
)
def test_the_effect_of_the_noise(figure, said):
    found = full()
    vars(found)["headline"] = replace(found.headline, noise_adds=figure)
    assert said in " ".join(words.person(found))


def test_terminal_lists_failures_before_open_and_passed_criteria():
    said = to_text(full())
    assert "FAILED: breaks: first less second, 1\n" in said
    assert "open: open (undecided): first less second, 1: 1.5 [0.5, 2.5] (limit 0.0, tolerance 2.0)" in flat(said)
    assert "open: silent (not measured): Not measured." in said
    assert "holds: holds" in said
    assert said.index("FAILED: ") < said.index("open: ") < said.index("holds: ")


@pytest.mark.parametrize("render", RENDERERS)
def test_dead_gradients_come_first(render):
    dead = "GRADIENTS ARE DEAD: on 87% of the images there is none that an attack could follow."
    said = render(full(criteria=(DEAD, FAIL)))
    assert dead in flat(said) and "GRADIENTS ARE DEAD" not in render(full())
    if render is to_html:
        assert said.index(dead) < min(said.index(x) for x in ('class="tiles"', "Of 100 images", "Failed: "))
    else:
        assert said.lstrip("*").startswith("GRADIENTS ARE DEAD"), "in its first line"


VERDICTS = {
    "established": ((PASS,), "Established: all 1 core criteria hold."),
    "failed": (
        (PASS, FAIL, OPEN),
        "Failed: this criterion does not hold: “breaks”. The figures may flatter the network.",
    ),
    "failed twice": ((DEAD, FAIL), f"Failed: these 2 criteria do not hold: “{ALIVE_GRADIENT}”, “breaks”."),
    "not established": ((PASS, OPEN), "Not established: of 2 core criteria 1 is open, listed below."),
    "nor where nothing was measured": (
        (PASS, OPEN, criterion("silent")),
        "Not established: of 3 core criteria 2 are open, listed below.",
    ),
    "but where it is not core": (
        (PASS, criterion("open", 0.015, core=False)),
        "Established: all 1 core criteria hold.",
    ),
    "untested": ((), "Not established: no criterion was tested, so the figures are unverified."),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_the_verdict(name):
    criteria, sentence = VERDICTS[name]
    found = full(criteria=criteria)
    for render in RENDERERS:
        assert sentence in flat(render(found))
    kind = {"established": "pass", "failed": "fail", "not established": "undecided"}[found.verdict]
    assert f'<div class="banner {kind}" role="status">' in to_html(found)
    assert flat(to_text(found)).index(sentence) < flat(to_text(found)).index("accuracy % [95%]")


# Eighty columns


def overlong(text):
    """Lines of more than 80 columns that a break would have made shorter."""
    return [line for line in text.splitlines() if len(line) > 80 and max(map(len, line.split())) <= 76]


LONG_NAMES = ("vanilla.safetensors", "a/run/of/last/tuesday.safetensors", "resnet20-learn2perturb-seed-3")


def named_baseline(baseline, **changes):
    found = full()
    results = tuple(replace(r, network=baseline) if r.network != "itself" else r for r in found.results)
    return replace(found, results=results, baseline=baseline, **changes)


@pytest.mark.parametrize("baseline", LONG_NAMES)
def test_no_line_is_wider_than_a_terminal(baseline):
    assert overlong(to_text(named_baseline(baseline, name="x" * 100))) == []
    assert max(map(len, to_text(named_baseline(baseline)).splitlines())) <= 80


def table_of(text):
    """The cells of the first table, column by column."""
    lines = text.splitlines()
    rule = next(i for i, line in enumerate(lines) if line.startswith("──"))
    spans = [m.span() for m in re.finditer("─+", lines[rule])]
    block = lines[rule + 1 : lines.index("", rule)]
    return [" ".join(" ".join(line[low:high] for line in block).split()) for low, high in spans]


@pytest.mark.parametrize(
    ("preset", "noisy"),
    [
        *((name, False) for name in PRESETS),
        ("quick", True),
        *((name, True) for name in ("standard", "paper")),
    ],
)
def test_no_table_breaks_a_name(preset, noisy):
    """Whatever attacks a preset has, with the widest figures that they can have."""
    subject = Subject(noisy=noisy, switchable=noisy, per_image=noisy, classes=10, sources=("vanilla.safetensors",))
    results = [
        row(c.id, 1.0, c.role, attack=c.name, on=c.on, source=c.source, attacked=20, answers=CLEAN.answers)
        for c in cases(PRESETS[preset], subject)
    ]
    text = to_text(report(*results))
    attacks, *_ = table_of(text)
    assert attacks == " ".join(r.attack for r in results)
    assert max(map(len, text.splitlines())) <= 80


@settings(max_examples=60, deadline=None)
@given(reports())
def test_lines_of_any_report(found):
    text = to_text(found)
    assert not overlong(text)


def test_a_plot_without_data_is_left_out():
    titles = ("Accuracy against ε", "Accuracy against the draws", "Accuracy against steps", "Survival of")
    assert [title in to_html(full()) for title in titles] == [True] * 4
    once = row(points=(Point("draws", "EOT-PGD-7", 1),), survival={})
    bare = report(replace(CLEAN, survival={}), once)
    assert [title in to_html(bare) for title in titles] == [False] * 4
    assert "figure" not in Page(to_html(bare)).tags


def test_a_plot_has_a_text_alternative():
    (label,) = re.findall(r'aria-label="(Accuracy against ε[^"]*)"', to_html(full()))
    assert "PGD-7: 1 84.0, 2 78.0, 4 66.0, 8 42.0" in label


def test_a_deterministic_network_has_no_draws_to_survive():
    rows = [row("clean", 0.9, "clean", draws=1), row(draws=1)]
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
def test_a_radius_is_written_as_in_papers(norm, epsilon, said):
    assert words.radius(row(norm=norm, epsilon=epsilon)) == said


def test_no_figure_is_minus_zero():
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
def test_a_browser_finds_no_fault(tmp_path):
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
def test_a_browser_would_report_a_fault(fault, tmp_path):
    page = tmp_path / "report.html"
    page.write_text(to_html(full()).replace("</main>", f"{fault}</main>"), encoding="utf-8")
    _, complaints = in_browser(page, tmp_path / "profile")
    assert len(complaints) == 1 and "Content Security Policy" in complaints[0]
    page.write_text("<!doctype html><title>x</title><script>console.error('broken')</script>", encoding="utf-8")
    _, complaints = in_browser(page, tmp_path / "profile")
    assert len(complaints) == 1 and "broken" in complaints[0]
