"""Files of others: opened where they are regular, text in any Unicode, names that come back."""

from __future__ import annotations

import codecs
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metriclab.core.reading import (
    is_missing,
    name_from_line,
    name_to_line,
    open_regular,
    printable,
    read_lines,
    read_text,
)

NAMES = st.binary(min_size=1, max_size=12).map(os.fsdecode) | st.text('a\u2028\u0085\n\r" \\\ufeffé', min_size=1)


@given(NAMES)
def test_any_name_comes_back_from_a_line_of_utf_8(name):
    line = name_to_line(name)
    assert b"\n" not in line.encode()
    assert name_from_line(line) == name
    printable(name).encode()


@given(st.lists(NAMES))
def test_lists_of_names_come_back_from_a_file(tmp_path_factory, names):
    path = tmp_path_factory.mktemp("names") / "names.txt"
    path.write_bytes("".join(f"{name_to_line(name)}\n" for name in names).encode())
    assert [name_from_line(line) for line in read_lines(path)] == names


@pytest.mark.parametrize("name", ["im/a 0.png", "日本/é.jpg", "a'b.png", "{}[].png", "C:\\a.png"])
def test_ordinary_names_are_written_as_they_are(name):
    assert name_to_line(name) == name


def test_lines_of_older_files_are_names_as_they_are():
    for line in ('"quoted', '"a" b', "12", "[1]", "{}"):
        assert name_from_line(line) == line


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", ("utf-16-be", codecs.BOM_UTF16_BE)], ids=str
)
def test_text_in_any_unicode_with_any_ends_of_lines(tmp_path, encoding, end):
    encoding, mark = encoding if isinstance(encoding, tuple) else (encoding, b"")
    (tmp_path / "a.txt").write_bytes(mark + end.join(["ä", "b\u2028\u0085c", " d", ""]).encode(encoding))
    assert read_lines(tmp_path / "a.txt") == ["ä", "b\u2028\u0085c", " d"]


@pytest.mark.parametrize("content", ["é".encode("latin-1"), "ab".encode("utf-16-le"), b"\xff\xfea", b"a\0"])
def test_other_encodings_are_no_text(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a.txt")


def test_what_is_no_regular_file_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    server = socket.socket(socket.AF_UNIX)
    monkeypatch.chdir(tmp_path)  # paths of sockets are short
    server.bind("socket")
    server.close()
    for name, what in (
        ("pipe", "It is a named pipe, not a regular file"),
        ("socket", "It is a socket, not a regular file"),
        ("/dev/zero", "It is a device, not a regular file"),
        (".", "Is a directory"),
        ("gone", "No such file or directory"),
        ("a\0b", "No such file or directory"),
    ):
        with pytest.raises(OSError, match=what):
            open_regular(tmp_path / name)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"x"


def test_what_programs_write_for_a_missing_value():
    assert all(map(is_missing, ["nan", "NaN", "NAN", "null", "NULL", "<NA>", "NaT", "None"]))
    assert not any(map(is_missing, ["", "nancy", "none", "NA", "0"]))
