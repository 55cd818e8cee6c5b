"""The report at the end of a run: written, named, opened where somebody looks, and never in the way."""

from __future__ import annotations

import io
import sys
import webbrowser

import pytest
from click.testing import CliRunner

from metriclab.cli import main, run_report
from metriclab.cli.run_report import end_with_report
from metriclab.errors import DataError
from tests.support.tiny import TINY


class Console(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """What a browser was told to open; nothing is drawn, on a machine with a screen."""
    addresses: list[str] = []
    monkeypatch.setattr(webbrowser, "open", addresses.append)
    monkeypatch.setattr(run_report, "write_report", lambda runs, out: out.write_text("page"))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("CI", raising=False)
    return addresses


def test_a_run_says_where_its_report_lies(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    arguments = ["run", str(tmp_path / "tiny.toml"), "--set", "train.steps=1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, [*arguments, "--report", "open"])  # nobody sees this output: no browser
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-2:] == [
        f"run folder: {tmp_path / 'run'}",
        f"report: {tmp_path / 'run' / 'report.html'}",
    ]
    assert "trained" in (tmp_path / "run" / "report.html").read_text()


def test_a_report_is_opened_on_a_terminal_with_a_display(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Console())
    end_with_report(tmp_path, "open", shown=True)
    assert opened == [(tmp_path / "report.html").as_uri()]
    assert sys.stdout.getvalue() == f"report: {tmp_path / 'report.html'}\n"


@pytest.mark.parametrize("why", ["refused", "quiet", "no terminal", "no display", "continuous integration"])
def test_a_report_is_not_opened_where_nobody_looks(why, opened, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO() if why == "no terminal" else Console())
    if why == "no display":
        monkeypatch.delenv("DISPLAY")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    if why == "continuous integration":
        monkeypatch.setenv("CI", "true")
    end_with_report(tmp_path, "write" if why == "refused" else "open", shown=why != "quiet")
    assert opened == []
    assert (tmp_path / "report.html").read_text() == "page"
    assert bool(sys.stdout.getvalue()) == (why != "quiet")


def test_no_report_is_written_where_none_is_wanted(opened, tmp_path):
    end_with_report(tmp_path, "none", shown=True)
    assert list(tmp_path.iterdir()) == opened == []


def test_a_run_without_a_report_is_as_good(tmp_path, monkeypatch, capsys):
    def fail(runs, out):
        raise DataError("the data have changed", help="put them back")

    monkeypatch.setattr(run_report, "write_report", fail)
    end_with_report(tmp_path, "open", shown=True)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "warning: there is no report: the data have changed\n")
