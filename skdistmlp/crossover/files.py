"""Files to write results to, checked before anything is measured."""

from importlib.util import find_spec
from pathlib import Path


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written.

    Raises
    ------
    ValueError
        If its folder is not there, or it cannot be opened to write.
    """
    folder = path.absolute().parent
    if not path.name:
        raise ValueError(f"{str(path)!r} is not the name of a file")
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder} for {path.name}")
    is_new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    if is_new:
        path.unlink()


def check_picture(path: Path) -> None:
    """Refuse a file that matplotlib cannot draw to.

    Raises
    ------
    ValueError
        If it cannot be written, matplotlib is not installed, or does not know what the
        end of its name stands for.
    """
    if find_spec("matplotlib") is None:
        raise ValueError(
            f'matplotlib draws {path.name}: pip install "skdistmlp[plots]"'
        )
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ValueError(
            f"{path.name}: matplotlib draws files that end in "
            f"{', '.join(f'.{name}' for name in sorted(known))}"
        )
    check_writable(path)
