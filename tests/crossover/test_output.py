"""Tables, and files that are checked before anything is measured."""

import pytest

from skdistmlp.crossover import output
from skdistmlp.crossover.output import check_plot_file, check_writable, markdown_table


def test_a_table_has_one_line_per_row():
    rows = [
        {"network": "64-(100)", "x": 1.23456},
        {"network": "b", "x": 2},
        {"network": "c", "x": None},
    ]
    assert markdown_table(rows).splitlines() == [
        "| network  | x    |",
        "| -------- | ---- |",
        "| 64-(100) | 1.23 |",
        "| b        | 2    |",
        "| c        | -    |",
    ]


@pytest.mark.parametrize("check", [check_writable, check_plot_file])
def test_checks_leave_the_folder_unchanged(check, tmp_path):
    new, old = tmp_path / "new.png", tmp_path / "old.PNG"
    old.write_text("as it was")
    check(new)
    check(old)
    assert not new.exists()
    assert old.read_text() == "as it was"


@pytest.mark.parametrize("check", [check_writable, check_plot_file])
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing/a.png", r"cannot write a\.png: there is no folder .*missing"),
        ("old.png/a.png", r"cannot write a\.png: there is no folder .*old\.png"),
        ("folder.png", r"cannot write .*folder\.png: Is a directory"),
    ],
)
def test_files_that_cannot_be_written_are_refused(check, path, message, tmp_path):
    (tmp_path / "old.png").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ValueError, match=message):
        check(tmp_path / path)


@pytest.mark.parametrize("name", ["plot", "plot.txt", ".png"])
def test_the_extension_of_a_plot_must_be_a_format(name, tmp_path):
    with pytest.raises(ValueError, match=r"extension must be one of .*\.png, "):
        check_plot_file(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_plot_needs_matplotlib(monkeypatch, tmp_path):
    monkeypatch.setattr(output, "find_spec", {"matplotlib": None}.__getitem__)
    with pytest.raises(ValueError, match="pip install matplotlib"):
        check_plot_file(tmp_path / "plot.png")
