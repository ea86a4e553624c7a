"""The command `dask mlp checkpoint`."""

from click.testing import CliRunner

from skdistmlp import DistributedMLPClassifier, cli
from tests.checkpoints.support import KilledError, killed_after
from tests.estimators.support import fit


def shown(path):
    return CliRunner().invoke(cli.mlp, ["checkpoint", str(path)])


def leave_one(tmp_path, digits, **parameters):
    clf = DistributedMLPClassifier(
        (12,), random_state=0, checkpoint=tmp_path, **parameters
    )
    try:
        with killed_after(3):
            fit(clf, digits[0][:200], digits[1][:200])
    except KilledError:
        return
    raise AssertionError("the fit ended before it was killed")


def test_it_shows_what_is_in_a_file_and_in_a_directory(digits, tmp_path):
    leave_one(tmp_path, digits, early_stopping=True)
    (file,) = tmp_path.iterdir()
    for path in (file, tmp_path, tmp_path.as_uri()):
        result = shown(path)
        assert result.exit_code == 0, result.output
        first, *lines = result.output.splitlines()
        assert first == str(file)
        found = dict(line.strip().split(":", 1) for line in lines)
        assert found["network"].strip() == "64-12-10, float64"
        assert found["solver"].strip() == "adam"
        assert found["rows"].strip() == "200"
        assert found["epochs"].strip() == "3"
        assert " after epoch " in found["best score"]
        assert float(found["loss"]) > 0
        assert "by skdistmlp" in found["written"]


def test_lbfgs_has_iterations(digits, tmp_path):
    leave_one(tmp_path, digits, solver="lbfgs")
    assert "iterations:  3" in shown(tmp_path).output


def test_a_damaged_one_is_named_and_the_others_shown(digits, tmp_path):
    leave_one(tmp_path, digits)
    (tmp_path / "00.checkpoint").write_bytes(b"PK")
    result = shown(tmp_path)
    assert result.exit_code == 1
    assert "00.checkpoint is no checkpoint of skdistmlp" in result.output
    assert "64-12-10" in result.output


def test_nothing_there_is_an_error(tmp_path):
    result = shown(tmp_path)
    assert result.exit_code == 1
    assert f"there are no checkpoints in {tmp_path}" in result.output
    result = shown(tmp_path / "missing")
    assert result.exit_code == 1
    assert "cannot be read" in result.output
