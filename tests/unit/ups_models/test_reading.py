"""The one reader of files from elsewhere: what it refuses, how, and that nothing makes it wait."""

import os
import time

import pytest

from ups_models.errors import StorageError
from ups_models.files import append_line, digest_of
from ups_models.reading import Unparsable, Unreadable, parse_json, parse_yaml, read_bytes, read_text
from ups_models.wording import plain, plain_lines, shortened, shown

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 8)}]\n" for i in range(1, 12)
)


def test_a_regular_file_is_read_and_a_link_that_a_user_made_is_followed(tmp_path):
    (tmp_path / "a").write_text("é", encoding="utf-8")
    (tmp_path / "link").symlink_to("a")

    assert read_text(tmp_path / "a") == read_text(tmp_path / "link") == "é"


def test_a_link_is_refused_where_none_may_be(tmp_path):
    (tmp_path / "a").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to("a")

    with pytest.raises(Unreadable, match="link: is a symbolic link, which is not followed here"):
        read_text(tmp_path / "link", follow_links=False)


def test_a_named_pipe_a_device_and_a_folder_are_named_and_nothing_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    began = time.monotonic()

    for name, kind in {"pipe": "a named pipe", "zero": "a device", ".": "a folder"}.items():
        with pytest.raises(Unreadable, match=f"is {kind}, not a regular file"):
            read_bytes(tmp_path / name)
        with pytest.raises(Unreadable, match=f"is {kind}"):
            digest_of(tmp_path / name)

    assert time.monotonic() - began < 20  # a pipe and a device have no end


def test_a_file_that_is_absent_is_for_its_reader_to_explain(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nothing")


def test_a_file_that_is_too_large_is_refused_without_being_read(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**12)

    with pytest.raises(Unreadable, match="is larger than 1 MB"):
        read_bytes(tmp_path / "sparse", limit=10**6)


def test_the_first_byte_that_is_no_text_is_named(tmp_path):
    (tmp_path / "a").write_bytes(b"abc\xffdef")

    with pytest.raises(Unreadable, match=r"a: byte 3 \(0xff\) is no UTF-8 text"):
        read_text(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ('{"a":' * 100_000, "nested more than 64 deep"),
        ("[" * 70 + '"' + '\\"' * 500_000, "nested more than 64 deep"),
        ('{"a": 1, "a": 2}', "key 'a' is given twice"),
        ("1e999", "too large a number"),
        ("9" * 5000, "5000 digits"),
        ('"\\ud800"', "half a character"),
        ('"a\\u0000"', "zero byte"),
        ("\ufeff{}", "BOM"),
        (b"\xff", "codec can't decode"),
    ],
)
def test_json_that_would_fail_later_is_refused_at_once(text, said):
    began = time.monotonic()

    with pytest.raises(Unparsable, match=said):
        parse_json(text)

    assert time.monotonic() - began < 20


def test_json_of_a_hundred_thousand_keys_takes_no_time():
    began = time.monotonic()

    parse_json("{" + ",".join(f'"{number}": [{number}]' for number in range(100_000)) + "}")

    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("{a: " * 100_000, "nested more than 64 deep"),
        (BOMB, "stands for more than 100000 values"),
        ("a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 200)), "nested more than 64 deep"),
        ("&a [*a]", "an alias that contains itself"),
        ("seed: !!int abc", "'abc' is no int"),
        ("2001-99-99", "is no timestamp"),
        ("1:" * 3000 + "1.0", "is no float"),
        ("!!bool maybe", "is no bool"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("!!map [a]", "."),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ('"a\\0b"', "zero byte"),
        ("\x00", "unacceptable character"),
    ],
)
def test_yaml_that_is_no_config_is_refused_at_once(text, said):
    began = time.monotonic()

    with pytest.raises(Unparsable, match=said) as caught:
        parse_yaml(text)

    assert "\n" not in str(caught.value)
    assert time.monotonic() - began < 5


def test_aliases_of_a_usual_config_are_understood():
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}") == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


def test_a_value_is_shown_in_part_and_in_one_plain_line():
    shared: list[object] = [0] * 1000
    for _ in range(40):
        shared = [shared, shared]  # as text it would fill every memory

    assert len(shown(shared)) <= 100
    assert shown(1 << 100_000) == "a whole number of 100001 bits"
    assert len(shown("x" * 10**6)) <= 100
    assert shortened("a\nb" * 100).endswith("…")
    assert "\n" not in shortened("a\nb" * 100)


def test_control_characters_and_passwords_are_not_printed():
    text = (
        "\x1b[31mred\x1b]0;title\x07 \x9b2J\u202eok\r\nnext https://me:secret@host/a http://token@host ssh://git@host"
    )

    assert plain(text) == "red 2Jok next https://host/a http://host ssh://git@host"
    assert plain_lines("a\x1b[0m\nb\tc") == "a\nb c"


def test_a_line_that_cannot_be_added_names_the_file_and_what_to_do(tmp_path):
    (tmp_path / "log").mkdir()

    with pytest.raises(StorageError, match=r"log: no line can be added \(Is a directory\)"):
        append_line(tmp_path / "log", "x")
