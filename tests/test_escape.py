"""Nothing foreign steers what shows it: a terminal, Markdown, HTML, JSON, a figure, a line of Python."""

import ast
import contextlib
import errno
import fcntl
import functools
import itertools
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import termios
import unicodedata
from dataclasses import asdict
from html.parser import HTMLParser

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perturbify
from perturbify import checkpoint, escape, zoo
from perturbify.checkpoint.header import Header
from perturbify.cli.inspect import _text
from perturbify.errors import CheckpointError, PerturbifyError, RecipeError
from perturbify.escape import LONGEST, fenced, html, latex, markdown, terminal
from perturbify.model_card import model_card

POISONS = (
    "\x1b]0;title\x07\x1b[2J\x1b[31m",
    "one\ntwo\r\nthree\rfour\x0bfive\x0csix\x1cseven\x85eight\u2028nine\u2029ten",
    "\x9b31m\x7f\x00\x08\x08\x08",
    "\u202egnp.exe\u202c \u2066isolated\u2069 \u061c\u200e\u200f",
    "zero\u200bwidth\u200cjoin\u200ded\ufeff\u2060 filled\u3164\uffa0 tag\U000e0041 vs\ufe01\U000e0100\u2800",
    "\udcff\ud800 \ue000\U0010ffff\ufffe\u0378",
    "<img src=x onerror=alert(1)><script>alert(1)</script>&lt;&#x1b;",
    "![x](https://evil.example/x.png) [x](javascript:alert) https://evil.example www.evil.example <https://evil.example>",
    "a | b || c\\| d\\",
    "```\n<b>\n```` ~~~ ``x`` `",
    "**bold** __bold__ _it_ ~~gone~~ $x$ @someone #1 [^note] [ ] :tada:",
    "# head",
    "- list",
    "1. list",
    "> quote",
    "    code",
    "\tcode",
    "===",
    "---",
    "* * *",
    "'''\nimport os\n\"\"\" \\",
    "# -*- coding: utf-7 -*-",
    "e" + "\u0301" * 500,
    "\u0338",
    "",
    "   ",
)
LONG = ("x" * 60_000, "\x1b" * 60_000, "\n" * 60_000)
HONEST = (
    "θ ε × – “x” … é ö ł ß ﬁ",
    "кошка 猫 고양이 γάτα חתול قطة แมว बिल्ली ကြောင် ქათამი",
    "گربه‌ها می‌خواهم",
    "क्‍ष श्री‌मान",
    "👩🏽‍🚀 👨‍👩‍👧 ❤️ 🏳️‍🌈",
    r"C:\new\table",
    "Việt đố̂ ק֣ו֖",
    "C&W, κ = 0 <50%> [80.9, 86.0] 5 * 3 | a_b",
)

foreign = st.one_of(st.text(), st.lists(st.sampled_from(POISONS + HONEST)).map("".join), st.sampled_from(POISONS))


def raw(text, allowed="\n"):
    """The characters that no output may have, but for joiners between letters: by Unicode's categories alone."""
    unfit = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    found = [c for c in text if unicodedata.category(c) in unfit and c not in f"{allowed}\u200c\u200d"]
    return found + re.findall("(?<![\u0620-\u0dff\ufe0f\u2640-\U0001faff])[\u200c\u200d]", text)


@settings(deadline=None)
@given(foreign)
def test_a_terminal_gets_one_bounded_harmless_line(text):
    shown = terminal(text)
    assert raw(shown, "") == [] and len(shown.splitlines()) <= 1 and len(shown) <= LONGEST
    assert terminal(shown) == shown, "what is fit is left as it is"
    shown.encode("utf-8")


@settings(deadline=None)
@given(foreign)
def test_only_lines_and_tabs_may_stay(text):
    shown = terminal(text, None, lines=True)
    assert raw(shown, "\n\t") == []
    assert shown.count("\n") == text.count("\n") and shown.count("\t") == text.count("\t")


@pytest.mark.parametrize("text", HONEST)
def test_ordinary_text_is_unchanged(text):
    assert terminal(text) == text
    assert escape.figure(text) == text


@settings(deadline=None)
@given(st.text(st.characters(categories=["Lu", "Ll", "Lt", "Nd", "Pd", "Po", "Sm", "Sc"], include_characters=" ")))
def test_letters_of_any_language_stay(text):
    assert terminal(text) == text
    assert json.loads(escape.json(text)) == text and escape.json(text) == json.dumps(text, ensure_ascii=False)


def test_escaped_text_stays_readable():
    assert terminal("a\x1b[2J\n\t\x9b\u202e\udcff\U000e0041\ue000") == r"a\x1b[2J\n\t\x9b\u202e\udcff\U000e0041\ue000"
    assert terminal("e" + "\u0301" * 10) == "e" + "\u0301" * 8 + r"\u0301\u0301"
    assert terminal("\u0338=") == "\\u0338="


def test_a_long_text_is_shortened_in_the_middle():
    shown = terminal("begin " + "x" * 60_000 + " end")
    (cut,) = re.findall(r"… \(([\d,]+) characters cut\) …", shown)
    assert shown.startswith("begin ") and shown.endswith(" end")
    assert len(shown) - len(f"… ({cut} characters cut) …") + int(cut.replace(",", "")) == 60_010
    assert len(terminal("\x1b" * LONGEST)) <= LONGEST and "\\" not in terminal("\x1b" * LONGEST).replace(r"\x1b", "")
    assert terminal("x" * LONGEST) == "x" * LONGEST
    assert len(terminal("x" * 5000, None)) == 5000


# Markdown, as a real renderer reads it

FRAMES = ("# Of {}", "# {}", "{}", "- {}", "> {}", "1. {}", "**{}.**", "| a | b |\n|---|---|\n| {} | – |", "x\n{}")
SPECIAL = {"html_inline", "html_block", "link_open", "image", "code_inline", "em_open", "s_open", "hr", "fence"}


@functools.cache
def reader():
    """A real one, as GitHub's: a library of the extra ``libraries`` brings it along."""
    library = pytest.importorskip("markdown_it")
    return library.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def tokens(text):
    for token in reader().parse(text):
        yield token
        yield from token.children or ()


def shape(text):
    """The blocks that a text is made of."""
    return [token.type for token in reader().parse(text)]


@settings(deadline=None)
@given(foreign, st.sampled_from(FRAMES))
@example("[x]: https://evil.example", "{}")
@example("-\t-", "{}")
@example("+", "{}")
def test_markdown_shows_it_literally(text, frame):
    written = frame.format(markdown(text))
    assert raw(written) == []
    if not terminal(text).strip():
        return
    found = list(tokens(written))
    assert shape(written) == shape(frame.format("word"))
    assert not SPECIAL & {token.type for token in found}
    said = "".join(token.content for token in found if token.type in ("text", "text_special"))
    assert " ".join(terminal(text).split()) in " ".join(said.split())


@pytest.mark.parametrize("address", ["https://evil.example", "http://x", "ftp://x", "www.evil.example", "WWW.x.y"])
def test_no_address_becomes_a_link(address):
    assert not re.search(r"(?<!\\)://|www\.", markdown(address), re.IGNORECASE)


def test_a_plain_word_needs_no_escape_in_markdown():
    assert markdown("timm:test_efficientnet") == "timm:test_efficientnet"
    assert markdown("a_b c") == r"a\_b c"


@settings(deadline=None)
@given(foreign)
def test_nothing_closes_a_code_fence(text):
    block = fenced(text, "toml")
    (only,) = reader().parse(block + "\n\nbehind it\n")[:-3]
    assert (only.type, only.info, only.content) == ("fence", "toml", terminal(text, None, lines=True) + "\n")


# HTML


class Reader(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text, self.alt = [], "", None
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.alt = dict(attrs).get("alt", self.alt)

    def handle_data(self, data):
        self.text += data


@settings(deadline=None)
@given(foreign)
def test_html_shows_it_literally(text):
    page = f'<p>{html(text)}</p><img alt="{html(text)}">'
    assert raw(page, "") == []
    found = Reader(page)
    assert found.tags == ["p", "img"]
    assert found.text == found.alt == terminal(text)


# JSON, figures


values = st.recursive(
    st.none() | st.booleans() | st.integers() | foreign,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(foreign, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(values, st.sampled_from([None, 1, 2]))
def test_json_keeps_the_values_without_raw_controls(given, indent):
    text = escape.json(given, indent)
    assert raw(text) == [] and text.isprintable() is ("\n" not in text)
    text.encode("utf-8")
    assert json.loads(text) == json.loads(json.dumps(given))


MATHS = (r"$\nonsense{$", r"\$x\$ $", "$x$")


@pytest.mark.parametrize("poison", POISONS + LONG, ids=itertools.count())
def test_nothing_in_latex_is_a_command(poison):
    written = latex(poison)
    assert raw(written) == []
    plain = re.sub(r"\\(text[a-z]+|char34)\{\}|\\[{}$&#%_]|\$[^$]*\$|\{[\[\]*]?\}", "", written)
    assert not set(r"\{}$&#%_^~<>|[]*\"`") & set(plain), plain


def test_latex_escapes_special_characters():
    assert latex(r"50% of a_b \ {x} & $y$ #1 a--b ^~") == (
        r"50\% of a\_b \textbackslash{} \{x\} \& \$y\$ \#1 a-{}-b \textasciicircum{}\textasciitilde{}"
    )
    assert latex("[z] *ε, θ – l∞") == r"{[}z{]} {*}$\varepsilon$, $\theta$ -- l$_\infty$"
    assert latex("ResNet-20, κ = 0.1") == r"ResNet-20, $\kappa$ = 0.1"


@pytest.mark.parametrize("text", [*filter(str.isascii, POISONS + LONG), *MATHS], ids=itertools.count())
def test_a_figure_shows_it_literally(text):
    figures = pytest.importorskip("matplotlib.figure")
    figure = figures.Figure()
    title = figure.suptitle(escape.figure(text, 80))
    figure.canvas.draw()  # raises where what is between dollar signs is no mathematics
    assert "\n" not in title.get_text()


# Errors


@pytest.mark.parametrize("poison", POISONS + LONG, ids=itertools.count())
def test_an_error_is_one_line_and_survives_pickling(poison):
    error = CheckpointError(f"The file {poison} is damaged.", f"Fetch {poison} again.")
    for text in (error.message, error.hint, str(error)):
        assert raw(text, "") == [] and len(text) <= 2 * LONGEST + 1
    assert error.message.startswith("The file ") and error.message.endswith(" is damaged.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.message, again.hint, str(again)) == (type(error), error.message, error.hint, str(error))


def test_an_ordinary_error_is_unchanged():
    error = PerturbifyError("θ of 'a\\b' is “wrong”.", None)
    assert (error.message, error.hint, str(error)) == ("θ of 'a\\b' is “wrong”.", None, "θ of 'a\\b' is “wrong”.")


def test_ten_thousand_recipe_mistakes_are_cut_short():
    error = RecipeError("\n  ".join(["Recipe 'x' has 10,000 mistakes:", *(f"{POISONS[0]}{i}" for i in range(10_000))]))
    lines = error.message.splitlines()
    assert len(lines) == 51 and lines[-1] == "  … and 9,951 more" and raw(error.message) == []
    assert lines[1] == "  " + terminal(POISONS[0]) + "0"
    again = pickle.loads(pickle.dumps(error))
    assert again.message == error.message
    long = RecipeError("\n".join(["x" * 60_000] * 100))
    assert len(long.message) < 30_000


# A file that a stranger gave


@pytest.fixture(scope="module")
def honest():
    """The header of a network that has everything that a header can have, as a dict."""
    model = zoo.create("timm:test_efficientnet", num_classes=3)
    network = perturbify.wrap(model, example_input=torch.rand(2, 3, 8, 8), normalize=zoo.normalization(model))
    row = {"network": "itself", "attack": "PGD-7", "on": "itself", "source": "other", "noise": "on", "norm": "linf"}
    figures = {"epsilon": 0.1, "n": 50, "attacked": 50, "draws": 10, "accuracy": 0.5, "interval": [0.4, 0.6]}
    header = asdict(checkpoint.describe(network)) | {
        "method": "learn2perturb",
        "recipe": "name = 'x'\n# a comment\n",
        "classes": ["a", "b", "c"],
        "trained": {"epochs": 7},
        "check": {
            **{"dataset": "digits", "preset": "quick", "n": 50, "seed": 0, "epsilon": 8 / 255},
            **{"verdict": "established", "worst_case": {"value": 0.5, "interval": [0.4, 0.6]}},
            "criteria": {"one step never beats many": "undecided", "a larger ε never helps": "pass"},
            "rows": [row | figures, row | figures | {"crafted_on": "noise on", "network": "baseline"}],
        },
    }
    header["sites"] = header["sites"][:2]
    header["inputs"]["y"] = {"dict": {"k": {"list": [{"whole": [3]}, {"value": "word"}]}}}
    return header


def places(values, path=()):
    """The paths of all strings in JSON values; ``None`` at its end stands for the key itself."""
    if isinstance(values, str):
        yield path
    if isinstance(values, dict) and path in (("inputs",), ("versions",), ("check", "criteria"), ("model", "kwargs")):
        yield from ((*path, key, None) for key in values)
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from places(value, (*path, key))


def poisoned(values, path, poison):
    copy = at = json.loads(json.dumps(values))
    *way, key = path[:-1] if path[-1] is None else path
    for step in way:
        at = at[step]
    if path[-1] is None:
        at[poison] = at.pop(key)
    else:
        at[key] = poison
    return copy


def statistics(header):
    return [site | {"mean": 0.1, "std": 0.1, "min": 0.1, "max": 0.1, "relative": 0.5} for site in header["sites"]]


def python_of(card):
    return next(token.content for token in reader().parse(card) if token.type == "fence" and token.info == "python")


def test_every_string_of_a_header_may_be_hostile(honest):
    plain = model_card(Header(**honest))
    blocks, lines, seen = shape(plain), _text(honest | {"sealed": True}, statistics(honest), None).count("\n"), 0
    for path in places(honest):
        for poison in POISONS + LONG:
            header = poisoned(honest, path, poison)
            card, said = model_card(Header(**header)), _text(header | {"sealed": True}, statistics(header), None)
            assert raw(card) == [] and raw(said) == [], path
            assert said.count("\n") == lines, path
            assert max(map(len, said.splitlines())) < 5_000, path
            assert not {"html_inline", "html_block", "link_open", "image"} & {t.type for t in tokens(card)}, path
            if path != ("recipe",) and path[:2] != ("check", "criteria"):  # which have lines of their own
                assert len(card.splitlines()) == len(plain.splitlines()), path
                assert shape(card) == blocks, path
            assert ast.dump(ast.parse(python_of(card))) in _loads(header), path
            assert json.loads(escape.json(header)) == header
            seen += 1
    assert seen > 1000


def _loads(header):
    """What the snippet of a card may come to: the file is read, by a factory where it names one."""
    codes = ("", ", trust_factory=True")
    return [ast.dump(ast.parse(f'import perturbify\nmodel = perturbify.load("model.safetensors"{c})')) for c in codes]


@pytest.mark.parametrize("poison", POISONS + LONG, ids=itertools.count())
def test_an_unknown_networks_class_stays_in_its_comment(honest, poison):
    card = model_card(Header(**honest | {"model": None, "source_class": poison}))
    (load,) = ast.parse(python_of(card)).body[1:]
    assert ast.unparse(load) == "model = perturbify.load('model.safetensors', model=network)"


def test_ten_thousand_classes_are_not_all_shown(honest):
    header = honest | {"classes": [f"class {i}" for i in range(10_000)]}
    assert "class 99 … and 9,900 more" in _text(header | {"sealed": True}, statistics(header), None)


# The real commands, on a real terminal

EVIL = "\x1b[2J\x1b]0;t\x07\x9b31m\u202e\u2066\u200b\r\nError: forged\u2028\x85\x7f"


def on_terminal(code, cwd, *arguments):
    """Runs Python on a terminal of its own; the bytes that the terminal got."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 400, 0, 0))
    done = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=os.environ
        | {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "400"},
    )
    os.close(theirs)
    got = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            got += chunk
    except OSError as error:
        assert error.errno == errno.EIO  # how a terminal says on Linux that nobody writes to it any more
    finally:
        os.close(ours)
    assert done.wait(timeout=60) == 0
    return got.decode("utf-8").replace("\r\n", "\n")


COMMANDS = """
import json, sys
from perturbify.cli.main import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as done:
        print("status", done.code)
"""


def test_no_command_prints_a_hostile_name_raw(tmp_path):
    name = EVIL.replace("\r", "").replace("/", "")
    (tmp_path / f"{name}.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    (tmp_path / f"{name}.toml").write_text(
        f"name = 'x'\n# {name}\n\"{json.dumps(EVIL)[1:-1]}\" = 1\n", encoding="utf-8"
    )
    (tmp_path / f"{name}.npz").write_bytes(b"none")
    (tmp_path / name).mkdir()
    wrong = [
        ["inspect", f"{name}.safetensors"],
        ["inspect", name],
        ["check", f"{name}.safetensors"],
        ["check", f"{name}.safetensors", "--data", name],
        ["check", name, "--data", "digits"],
        ["compare", f"{name}=x", "--data", "digits"],
        ["compare", f"{name}=x", f"{name}=y", "--data", f"{name}.npz"],
        ["certify", f"{name}.safetensors", "--data", name],
        ["plot", name],
        ["plot", name, "-o", f"{name}.x"],
        ["convert", name],
        ["convert", f"timm:{name}"],
        ["convert", f"{name}:f"],
        ["convert", f"{name}.safetensors"],
        ["convert", "cifar_resnet20", "--method", name],
        ["convert", "cifar_resnet20", "--data", name],
        ["convert", "cifar_resnet20", "--weights", f"{name}.pth"],
        ["convert", "cifar_resnet20", "--grain", name],
        ["convert", "cifar_resnet20", "--theta-init", name],
        ["convert", "cifar_resnet20", "--input-size", name],
        ["convert", "cifar_resnet20", "--model-arg", name],
        ["convert", "cifar_resnet20", "--model-arg", f"{name}=1"],
        ["convert", "cifar_resnet20", f"--{name}"],
        ["convert", "cifar_resnet20", name, name],
        ["finetune", "--recipe", name],
        ["finetune", "--recipe", f"{name}.toml"],
        ["finetune", "--recipe", "smoke", "--set", f"{name}=1"],
        ["finetune", "--recipe", "smoke", "--set", f"method={name}"],
        ["finetune", "--recipe", "smoke", "--model", f"{name}.safetensors"],
        ["finetune", "--recipe", "smoke", "--data", name],
        ["finetune", "--recipe", "smoke", "--device", name],
        ["finetune", "--resume", name],
        ["recipes", "show", name],
        ["recipes", "validate", f"{name}.toml"],
        ["recipes", "validate", "smoke", "--set", name],
        ["recipes", "cp", name, "x.toml"],
        ["census", "--filter", name],
        ["reproduce", name, "--budget", "1"],
        ["reproduce", "table1", "--budget", name],
        ["reproduce", "table1", "--budget", "1", "--methods", name],
        [name],
    ]
    said = on_terminal(COMMANDS, tmp_path, json.dumps(wrong))
    said = said.replace("\r\x1b[K", "")  # our own: a line that moves is emptied at its end
    assert raw(said) == []
    assert said.count("status ") == len(wrong) and "status 0" not in said
    assert not re.search("^Error: forged", said, re.M)
    assert "Traceback" not in said
    for lines in re.split(r"status \d\n", said)[:-1]:
        assert len(re.findall("^Error: ", lines, re.M)) == 1, lines


def test_a_recipe_is_shown_with_controls_escaped(tmp_path):
    (tmp_path / "r.toml").write_text("name = 'x'\n\t# θ \u202e\x9b31m\x1b[2J\n", encoding="utf-8")
    said = on_terminal(COMMANDS, tmp_path, json.dumps([["recipes", "show", "r.toml"]]))
    assert said == "name = 'x'\n\t# θ \\u202e\\x9b31m\\x1b[2J\nstatus 0\n"


CONSOLE = """
import sys, warnings
from types import SimpleNamespace
from perturbify.cli import main
from perturbify.cli.console import Console
evil = sys.argv[1]
console = Console(quiet=False, as_json=False)
console.log(f"run: {evil}")
console.log(f"resume: {evil}")
console.result(f"first {evil}", None)
Console(quiet=False, as_json=True).result("", {evil: evil})
main._show_warning(UserWarning(evil))
with console.checking() as show:
    for done in (1, 2):
        show(SimpleNamespace(case=evil, seconds_left=1, done=done, total=2, batch=done, batches=2))
"""


def test_only_the_progress_line_controls_the_terminal(tmp_path):
    said = on_terminal(CONSOLE, tmp_path, EVIL)
    assert raw(said, "\n\r") == []
    fit = terminal(EVIL)
    assert f"run: {fit}\n" in said and f"\nresume: {fit}\n" in said and f"checked: {fit}, 1 s left\n" in said
    assert [line for line in said.split("\r") if line.startswith(f"{fit} |") and "| 1/2 [" in line], "the bar"


def test_what_goes_into_a_pipe_is_escaped_too(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps([["inspect", EVIL]])], cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stderr.decode("utf-8").startswith(f"Error: There is no file {terminal(EVIL)}.")


def test_an_error_in_another_library_takes_one_line(monkeypatch, capsys, tmp_path):
    from perturbify.cli import convert
    from perturbify.cli.main import run

    def fail(*_, **__):
        raise ValueError(f"{EVIL}{'x' * 60_000}")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(convert.models, "create", fail)
    with contextlib.suppress(KeyError):
        monkeypatch.delenv("PERTURBIFY_DEBUG")
    assert run(["convert", "resnet18"]) == 1
    *_, error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith(r"Error: ValueError: \x1b[2J") and raw(error) == [] and len(error) < 3000
    assert "PERTURBIFY_DEBUG" in hint
