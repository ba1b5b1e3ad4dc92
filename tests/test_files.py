"""Files: complete or absent."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowvid.data.files import write_atomically, write_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def test_makes_folders_and_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_atomically(path, lambda temporary: temporary.write_text("one"))
    write_atomically(path, lambda temporary: temporary.write_text("two"))
    assert path.read_text() == "two"
    assert list(path.parent.iterdir()) == [path]


def test_the_writer_is_given_another_name_with_the_same_ending_and_folder(tmp_path: Path) -> None:
    path, seen = tmp_path / "film.mp4", []

    def write(temporary: Path) -> None:
        seen.append((temporary, path.exists()))
        temporary.write_bytes(b"x")

    write_atomically(path, write)
    ((temporary, existed),) = seen
    assert temporary != path
    assert temporary.parent == path.parent
    assert temporary.suffix == ".mp4"
    assert not existed


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_writer_that_fails_changes_nothing(tmp_path: Path, old: str | None, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)

    def write(temporary: Path) -> None:
        temporary.write_text("half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert {found.name: found.read_text() for found in tmp_path.iterdir()} == ({"file.txt": old} if old else {})


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "file.txt", lambda temporary: None)
    assert not list(tmp_path.iterdir())


@given(JSON)
def test_json_returns(place: Path, content: object) -> None:
    write_json(place / "content.json", content)
    assert json.loads((place / "content.json").read_text(encoding="utf-8")) == content


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_it_cannot_hold_and_keeps_the_old_file(tmp_path: Path, value: float) -> None:
    path = tmp_path / "content.json"
    write_json(path, [1.5])
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": [0.0, value]})
    assert json.loads(path.read_text()) == [1.5]
    assert list(tmp_path.iterdir()) == [path]
