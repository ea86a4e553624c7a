"""The command ``dask mlp checkpoint``."""

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from skdistmlp.checkpoints.file_format import Summary


@click.command()
@click.argument("path")
def checkpoint(path: str) -> None:
    """Show what is in a checkpoint, or in all checkpoints of a directory.

    PATH is a file that a fit with checkpoint= has written, the directory that it was
    given, or the URL of either. The files are only read.
    """
    from skdistmlp.checkpoints.store import summaries
    from skdistmlp.exceptions import CheckpointError

    try:
        found = list(summaries(path))
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}") from error
    if not found:
        raise click.ClickException(
            f"there are no checkpoints in {path}. Fits that have ended leave none."
        )
    unreadable = False
    for name, summary in found:
        if isinstance(summary, CheckpointError):
            unreadable = True
            click.echo(str(summary), err=True)
            continue
        click.echo(name)
        for label, value in _described(summary):
            click.echo(f"  {label + ':':<12} {value}")
    if unreadable:
        raise SystemExit(1)


def _described(summary: "Summary") -> list[tuple[str, str]]:
    """Return what to say of a checkpoint, with labels."""
    progress = summary.progress
    units = "-".join(map(str, summary.layer_units))
    unit = "iterations" if progress["kind"] == "lbfgs" else "epochs"
    lines = [
        ("network", f"{units}, {summary.dtype}"),
        ("solver", summary.solver),
        ("rows", f"{summary.n_rows:,}"),
        (unit, f"{progress['n_iter']:,}"),
        ("loss", f"{progress['loss']:.6g}"),
    ]
    if progress.get("best_validation_score") is not None:
        score, epoch = progress["best_validation_score"], progress["best_iter"]
        lines.append(("best score", f"{score:.6g} after epoch {epoch}"))
    lines.append(("written", f"{summary.written}, by skdistmlp {summary.package}"))
    return lines
