"""Every error message and warning of the package is on the troubleshooting page."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
ROOMS = (
    "checkpoints",
    "cluster",
    "engines",
    "estimators",
    "nn",
    "parallel",
    "parity",
    "planning",
    "plotting",
    "training",
    "wire",
)
"""The command explains its messages where it is used."""

SPEAKERS = re.compile(r"(\w*Error|(\w+\.)?warn)$")


def pieces(message):
    """Return the constant parts of a message."""
    if isinstance(message, ast.Constant):
        return [str(message.value)]
    parts = message.values if isinstance(message, ast.JoinedStr) else []
    return [part.value for part in parts if isinstance(part, ast.Constant)]


def stable_beginning(message):
    """Return up to six words of the first sentence with at least two."""
    for piece in pieces(message):
        words = re.split(r"[.:] ", piece)[0].split()
        if len(words) > 1:
            return " ".join(words[:6])
    return None


def messages():
    for room in ROOMS:
        for file in sorted((ROOT / "skdistmlp" / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.Call) or not node.args:
                    continue
                if SPEAKERS.match(ast.unparse(node.func)):
                    beginning = stable_beginning(node.args[0])
                    if beginning is not None:
                        yield pytest.param(beginning, id=f"{file.name}:{node.lineno}")


MESSAGES = list(messages())


def test_messages_of_every_kind_are_collected():
    found = {message.values[0] for message in MESSAGES}
    assert "the Dask client is asynchronous, but" in found
    assert "lost while" in found
    assert "needs a cluster, but" in found
    assert "Training interrupted by user." in found
    assert "displays need matplotlib" in found
    assert len(found) > 50


@pytest.mark.parametrize("beginning", MESSAGES)
def test_every_message_is_on_the_page(beginning):
    assert beginning in " ".join(PAGE.split())
