"""The page's files hold to what its safety and its readers rest on, without a browser."""

import re
from itertools import product

import pytest

from web.app import STATIC

PAGES = sorted(STATIC.glob("*.html"))
SCRIPTS = sorted(STATIC.glob("*.js"))
SHEETS = sorted(STATIC.glob("*.css"))
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, never asked for
# Text on what it stands on, and what is told by its colour on what it lies on: WCAG 2.2, AA.
TEXT = [
    *product(("--ink", "--muted"), ("--ground", "--surface", "--tint")),
    *product(("--accent", "--bad", "--good", "--unsure"), ("--ground", "--surface")),
    *(("--accent", "--accent-tint"), ("--on-accent", "--accent"), ("--surface", "--bad")),
    *((f"--{kind}", f"--{kind}-tint") for kind in ("good", "bad", "unsure")),
    *(("--ink", f"--{kind}-tint") for kind in ("accent", "bad", "unsure")),
]
MARKS = [
    *product(("--edge", "--focus", "--ads", "--games"), ("--ground", "--surface")),
    *((f"--class-{number}", "--surface") for number in range(4)),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_page_has_no_inline_script_or_style(page):
    text = page.read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)[^>]*>|<style|\sstyle=|\son\w+=", text) == []


@pytest.mark.parametrize("file", [*PAGES, *SCRIPTS, *SHEETS], ids=lambda path: path.name)
def test_nothing_is_asked_of_another_host(file):
    text = file.read_text().replace(NAMESPACE, "")
    assert re.findall(r"https?://|[\"'(]//\w", text) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_never_becomes_markup_or_code(script):
    risky = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    assert re.findall(risky, script.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_are_there(page):
    named = re.findall(r"[\"']/static/([^\"']+)", page.read_text())
    assert named
    assert [name for name in named if not (STATIC / name).is_file()] == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_imports_name_what_the_other_module_exports(script):
    text, missing = script.read_text(), []
    for names, module in re.findall(r"import \{([^}]*)\} from \"\./([\w.]+)\"", text):
        exported = set(
            re.findall(
                r"^export (?:async )?(?:function|const|class|let) (\w+)",
                (STATIC / module).read_text(),
                re.MULTILINE,
            )
        )
        wanted = {name.split(" as ")[0].strip() for name in names.split(",") if name.strip()}
        missing += [f"{name} of {module}" for name in sorted(wanted - exported)]
    modules = re.findall(r"(?:import\(|from )\"\./([\w.]+)\"", text)
    missing += [module for module in modules if not (STATIC / module).is_file()]
    assert missing == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_told_apart(scheme):
    colours = _colours(scheme)
    faint = {
        (front, back): round(ratio, 2)
        for pairs, least in ((TEXT, 4.5), (MARKS, 3.0))
        for front, back in pairs
        if (ratio := _contrast(colours[front], colours[back])) < least
    }
    assert faint == {}


def _colours(scheme: str) -> dict[str, str]:
    """Custom properties that are plain colours; dark replaces what light set."""
    text = (STATIC / "app.css").read_text()
    blocks = re.findall(r"^:root(\[[^\]]*\])? \{(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    chosen = [body for which, body in blocks if not which or scheme in which]
    return dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6});", "".join(chosen)))


def _contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2."""
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    linear = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return sum(
        weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )
