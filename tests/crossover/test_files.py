"""Files are checked before anything is measured."""

import pytest

from skdistmlp.crossover import files
from skdistmlp.crossover.files import check_picture, check_writable


@pytest.mark.parametrize("check", [check_writable, check_picture])
def test_a_check_leaves_nothing_and_takes_nothing_away(check, tmp_path):
    new, old = tmp_path / "new.png", tmp_path / "old.PNG"
    old.write_text("as it was")
    check(new)
    check(old)
    assert not new.exists()
    assert old.read_text() == "as it was"


@pytest.mark.parametrize("check", [check_writable, check_picture])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("missing/a.png", r"there is no folder .*missing for a\.png"),
        ("old.png/a.png", r"there is no folder .*old\.png for a\.png"),
        ("folder.png", r"folder\.png cannot be written: Is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused(check, path, said, tmp_path):
    (tmp_path / "old.png").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=said):
        check(tmp_path / path)


@pytest.mark.parametrize("name", ["plot", "plot.txt", ".png"])
def test_a_picture_says_its_format(name, tmp_path):
    with pytest.raises(ValueError, match=r"matplotlib draws files that end in .*\.png"):
        check_picture(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_picture_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "find_spec", {"matplotlib": None}.__getitem__)
    with pytest.raises(ValueError, match=r'pip install "skdistmlp\[plots\]"'):
        check_picture(tmp_path / "plot.png")
