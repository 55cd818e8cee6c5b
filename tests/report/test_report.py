"""The report: one file that says everything, lets nothing out, and works in a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from markupsafe import Markup
from PIL import Image

from metriclab.cli import main
from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.report import blocks
from metriclab.report.blocks import Notes
from metriclab.report.charts import Point, Range, Series, draw_forest, draw_lines, draw_scatter, make_legend
from metriclab.report.gallery import Answer, Answers, Chooser, EntryAnswer
from metriclab.report.page import BUDGET, draw, within_budget, write_report
from metriclab.report.summary import robustness_sections
from tests.support.chromium import Chromium
from tests.support.tiny import run, tiny

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """What is in a page: elements with their attributes, and its visible text."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A folder of images in which class and file names are hostile."""
    folder, noise = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["path,label,split"]
    for number in range(60):
        name = f"{number} <b>&.png"
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name)
        kind = number // 6
        lines.append(f'"{name}","{HOSTILE} {kind}",{("train", "val", "test")[0 if kind < 4 else 1 if kind < 6 else 2]}')
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, pictures) -> list[Path]:
    """Two entries with two seeds each."""
    folder = tmp_path_factory.mktemp("runs")
    given = ("data.name=folder", f"data.root='{pictures / 'manifest.csv'}'", "train.steps=4")
    paths = []
    for name, more in (("warm", ()), ("cool", ("loss.temperature=0.05",))):
        for seed in (0, 1):
            paths.append(folder / f"{name}-{seed}")
            run(tiny(folder, *given, *more, f"train.seed={seed}", "sampler.batch_size=8"), paths[-1])
            cost_twice(paths[-1], name == "warm")
    return paths


def cost_twice(folder: Path, twice: bool) -> None:
    """Times that a test can rely on: by the clock two such runs may cost the same."""
    result = json.loads((folder / "result.json").read_text())
    result["cost"]["train_seconds"] = 2.0 if twice else 1.0
    (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def one(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("one") / "report.html"
    write_report(runs[:1], out)
    return out


@pytest.fixture(scope="module")
def several(runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("several") / "report.html"
    write_report(runs, out)
    return out


QUOTED = f'{HOSTILE}"onload="'


@pytest.mark.parametrize(
    "block",
    [
        blocks.Table(QUOTED, [QUOTED], [[QUOTED, QUOTED], [blocks.Cell(QUOTED, 1), None]]),
        blocks.Facts([(QUOTED, QUOTED)]),
        blocks.Notes([QUOTED]),
        blocks.Text(QUOTED),
        blocks.Code(QUOTED, QUOTED, folded=True),
        make_legend([QUOTED]),
        Chooser([QUOTED]),
        Answers(QUOTED, [Answer(Markup(), QUOTED, QUOTED, [EntryAnswer([], QUOTED, QUOTED)])]),
        blocks.Charts([draw_lines(QUOTED, [Series(QUOTED, [1, 2], [1, 2])], x_name=QUOTED)]),
        blocks.Charts([draw_scatter(QUOTED, [Point(QUOTED, 1, 2, 3)], x_name=QUOTED, y_name=QUOTED)], layout="wide"),
        blocks.Charts([draw_forest(QUOTED, [Range(QUOTED, 1, [(0, 2)], [1])], x_name=QUOTED)]),
    ],
    ids=lambda block: type(block).__name__,
)
def test_text_becomes_markup_only_by_escaping(block):
    page = Page(draw(block))
    assert not page.of("script")
    assert not any("onload" in attributes for _, attributes in page.elements)
    assert "alert(1)" in page.text


def test_a_definition_is_escaped_in_its_link():
    page = Page(Notes().refer(QUOTED, QUOTED))
    assert [name for name, _ in page.elements] == ["sup", "a"]
    assert page.of("a")[0]["title"] == QUOTED


def test_nothing_in_data_ends_its_element():
    drawn = draw(blocks.Data("x", {"a": f"{HOSTILE}<!--&"})).strip()
    assert drawn.count("</script>") == 1
    assert json.loads(drawn.partition(">")[2].removesuffix("</script>")) == {"a": f"{HOSTILE}<!--&"}


@pytest.mark.parametrize("which", ["one", "several"])
def test_everything_from_the_data_is_escaped_and_nothing_is_fetched(which, request):
    path: Path = request.getfixturevalue(which)
    content = path.read_text()
    page = Page(content)
    assert HOSTILE in page.text + "".join(str(image["alt"]) for image in page.of("img"))  # it is shown, as text
    scripts = [attributes for attributes in page.of("script") if attributes.get("type") != "application/json"]
    assert len(scripts) == 1
    assert not page.of("link")
    for name in ("src", "href", "xlink:href", "action", "srcset"):
        for _, attributes in page.elements:
            assert attributes.get(name) is None or attributes[name].startswith(("data:image/", "#"))
    (policy,) = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    assert not any(key.startswith("on") or key == "style" for _, attributes in page.elements for key in attributes)
    assert all("alt" in image for image in page.of("img"))
    assert path.stat().st_size <= BUDGET


def test_a_run_is_told_whole(one, runs):
    text = Page(one.read_text()).text
    result = json.loads((runs[0] / "result.json").read_text())
    assert f"{result['metrics']['retrieval']['map_at_r']:.4f}" in text
    for said in ("raw pixels", "untrained", "Training", "Best", "Worst", "Map of the embeddings", "[sampler]", "torch"):
        assert said in text, said


def test_a_comparison_has_its_verdict_intervals_and_differences(several):
    text = Page(several.read_text()).text
    assert re.search(r"no evidence of a difference between|is better than", text)
    for said in ("Intervals", "Quality and cost", "loss.temperature", "Side by side"):
        assert said in text, said


def test_robustness_and_health_are_drawn_and_explained(tmp_path):
    given = ("train.steps=2", "evaluate.1.name=robustness", "evaluate.1.severities=[1, 5]", "evaluate.2.name=health")
    run(tiny(tmp_path, *given, 'evaluate.1.corruptions=["noise", "blur"]'), tmp_path / "run")
    write_report([tmp_path / "run"], tmp_path / "report.html", images=False)
    page = Page((tmp_path / "report.html").read_text())
    told = [str(svg.get("aria-label")) for svg in page.of("svg")]
    for kind in ("noise", "blur"):
        (curve,) = (text for text in told if text.startswith(f"{kind} over severity. trained: "))
        assert "raw pixels: " in curve
    for said in (
        "MAP@R when the queries are corrupted",
        "relative drop",
        "An effective rank near 1 is",
    ):
        assert said in page.text, said
    halves = "Half of each class asks and the other half is searched"
    assert halves not in page.text, "the run has a gallery"
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    (section,) = robustness_sections({**result, "protocol": "leave-one-out"}, Notes())
    assert halves in section.lead


def test_entries_to_see_side_by_side_can_be_chosen(runs, tmp_path, pictures):
    given = ("data.name=folder", f"data.root='{pictures / 'manifest.csv'}'", "train.steps=1", "sampler.batch_size=8")
    run(tiny(tmp_path, *given, "train.seed=3"), tmp_path / "short")
    out = tmp_path / "report.html"
    write_report([runs[0], runs[2], tmp_path / "short"], out)
    page = Page(out.read_text())
    boxes = [box for box in page.of("input") if box["type"] == "checkbox"]
    assert [box["value"] for box in boxes] == ["0", "1", "2"]
    assert {part["data-entry"] for part in page.of("div") if "data-entry" in part} == {"0", "1", "2"}
    for said in ("One run of each entry, that of its lowest seed,", "seed 3 · ", "Entries shown"):
        assert said in page.text, said


def test_the_command_writes_the_file_and_says_how_large_it_is(runs, tmp_path):
    out = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(runs[0]), "-o", str(out), "--no-images"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert f"MB written to {out}" in done.output
    assert "data:image" not in out.read_text()


def test_what_is_no_finished_run_is_refused(runs, tmp_path):
    with pytest.raises(StorageError, match=r"no run|not a run|holds no"):
        write_report([tmp_path], tmp_path / "out.html")
    unfinished = tmp_path / "unfinished"
    shutil.copytree(runs[0], unfinished)
    (unfinished / "result.json").unlink()
    with pytest.raises(StorageError, match=r"not finished|unfinished"):
        write_report([unfinished], tmp_path / "out.html")
    with pytest.raises(StorageError, match="is a folder"):
        write_report(runs[:1], tmp_path)
    with pytest.raises(RecipeError, match=r"has no metric retrieval\.map_at_q") as caught:
        write_report(runs[:1], tmp_path / "out.html", metric="retrieval.map_at_q")
    assert "map_at_r" in caught.value.help


def test_data_that_are_gone_or_changed_are_named(runs, pictures, tmp_path):
    moved = tmp_path / "run"
    shutil.copytree(runs[0], moved)
    recipe = moved / "recipe.toml"
    recipe.write_text(recipe.read_text().replace(str(pictures), str(tmp_path / "gone")))
    with pytest.raises(DataError, match=r"the data of .* cannot be read") as caught:
        write_report([moved], tmp_path / "out.html")
    assert "--no-images" in caught.value.help
    assert write_report([moved], tmp_path / "out.html", images=False) > 0


def test_a_page_that_cannot_fit_is_refused(runs):
    from metriclab.comparison.finished import find_runs
    from metriclab.report.contents import OneRun

    found, _ = find_runs(runs[:1])
    with pytest.raises(RecipeError, match=r"more than the 10,000 that it may be"):
        within_budget(OneRun(found[0], metric=None, images=True), budget=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_opens_it_without_a_complaint(one, several, dark):
    with Chromium(dark=dark) as browser:
        for path in (one, several):
            browser.events.clear()
            browser.open(path)
            assert browser.complaints == []
            assert browser.evaluate("document.title").endswith("metriclab")
            assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert browser.evaluate("document.getElementById('theme').textContent") == ("Light" if dark else "Dark")
            before = browser.evaluate("getComputedStyle(document.body).backgroundColor")
            browser.evaluate("document.getElementById('theme').click()")
            assert browser.evaluate("getComputedStyle(document.body).backgroundColor") != before


@pytest.mark.slow
def test_the_map_shows_the_image_under_the_pointer_and_by_keyboard(one):
    with Chromium() as browser:
        browser.open(one)
        browser.evaluate(
            "document.querySelector('#map-points circle').scrollIntoView({block: 'center', behavior: 'instant'})"
        )
        place = browser.evaluate(
            "(() => { const b = document.querySelector('#map-points circle').getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        shown = "!document.querySelector('.card').hidden"
        assert not browser.evaluate(shown)
        browser.move(*place)
        assert browser.evaluate(shown)
        words = browser.evaluate("document.querySelector('.card .words').textContent")
        assert HOSTILE in words
        assert browser.evaluate("document.querySelector('.card .picture').style.backgroundImage").startswith(
            'url("data:'
        )
        assert browser.evaluate("document.querySelector('.card .words script')") is None
        browser.move(1, 1)
        assert not browser.evaluate(shown)
        browser.evaluate("document.getElementById('map-points').focus()")
        browser.press("ArrowRight")
        assert browser.evaluate(shown)
        assert browser.complaints == []


@pytest.mark.slow
def test_a_box_hides_its_entry_by_keyboard(runs, tmp_path, pictures):
    given = ("data.name=folder", f"data.root='{pictures / 'manifest.csv'}'", "train.steps=1", "sampler.batch_size=8")
    run(tiny(tmp_path, *given, "train.seed=3"), tmp_path / "short")
    out = tmp_path / "report.html"
    write_report([runs[0], runs[2], tmp_path / "short"], out)
    seen = "[...document.querySelectorAll('.entry[data-entry=\"1\"]')].some(part => part.offsetHeight > 0)"
    with Chromium(390, 844) as browser:
        browser.open(out)
        assert browser.evaluate(seen)
        browser.evaluate("document.querySelector('.chooser input[value=\"1\"]').focus()")
        browser.call(
            "Input.dispatchKeyEvent", type="keyDown", key=" ", code="Space", text=" ", windowsVirtualKeyCode=32
        )
        browser.call("Input.dispatchKeyEvent", type="keyUp", key=" ", code="Space", windowsVirtualKeyCode=32)
        assert not browser.evaluate(seen)
        cut = (
            "[...document.querySelectorAll('svg.chart')].filter(svg => svg.getBoundingClientRect().right > innerWidth)"
        )
        assert browser.evaluate(f"{cut}.length") == 0
        assert browser.complaints == []


@pytest.mark.slow
def test_a_click_on_a_head_sorts_the_table(several):
    column = "[...document.querySelector('table').tBodies[0].rows].map(row => Number(row.cells[2].dataset.value))"
    with Chromium() as browser:
        browser.open(several)
        browser.evaluate("document.querySelectorAll('table')[0].tHead.rows[0].cells[2].querySelector('button').click()")
        assert browser.evaluate(column) == sorted(browser.evaluate(column), reverse=True)
        browser.evaluate("document.querySelectorAll('table')[0].tHead.rows[0].cells[2].querySelector('button').click()")
        assert browser.evaluate(column) == sorted(browser.evaluate(column))
        aria = "document.querySelectorAll('table')[0].tHead.rows[0].cells[2].getAttribute('aria-sort')"
        assert browser.evaluate(aria) == "ascending"
