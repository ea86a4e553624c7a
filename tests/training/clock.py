"""A clock that tests move, in place of the one that paces training."""

from skdistmlp.training import pace


class Clock:
    """Stands for the module `time` in `skdistmlp.training.pace`."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(pace, "time", self)

    def monotonic(self):
        return self.now
