"""Links of a given rate and delay, and how `tc` makes them."""

import re
from dataclasses import dataclass

UNSHAPED = "unshaped"

BURST_S = 100e-6
"""Time at full rate for which a link may burst. More would carry whole messages for
free; less would need timers that are more precise than the kernel's."""

MAX_BURST_S = 8 * BURST_S
"""Time for which it may burst where timers are so imprecise that the link would carry
much less than its rate: on one machine 618 Mbit/s of 1,000, and with this 956."""

CARRIED = 0.9
"""Share of its rate that a link has to carry; headers alone take 6%."""

MIN_BURST = 3_200
"""Bytes that a link may always burst: two packets, or none would ever leave."""

QUEUE_S = 0.4
"""Time at full rate for which a link queues packets. So long that TCP is slowed down by
the wait and loses nothing, or runs would differ by what was lost when."""

QUEUED_PACKETS = 100_000
"""Packets that a delayed link holds: more than are ever on the way."""


@dataclass(frozen=True)
class Link:
    """The link between each machine and the switch.

    Attributes
    ----------
    mbit_per_s : int or None
        Megabits per second in each direction, or None for what the kernel can do.
    delay_ms : float
        Milliseconds that a packet is delayed on its way from one machine to another.
    burst_s : float
        Time at full rate for which it may burst; see `BURST_S`.
    """

    mbit_per_s: int | None
    delay_ms: float = 0.0
    burst_s: float = BURST_S

    @property
    def name(self) -> str:
        """What to call it in tables, such as "1 Gbit/s, 0.5 ms"."""
        if self.mbit_per_s is None:
            rate = UNSHAPED
        elif self.mbit_per_s % 1000:
            rate = f"{self.mbit_per_s} Mbit/s"
        else:
            rate = f"{self.mbit_per_s // 1000} Gbit/s"
        return f"{rate}, {self.delay_ms:g} ms" if self.delay_ms else rate

    def carries(self, mbit_per_s: float) -> bool:
        """Return whether this is about the rate that it should have."""
        return self.mbit_per_s is None or mbit_per_s >= CARRIED * self.mbit_per_s

    @property
    def uplink(self) -> list[str]:
        """The queueing discipline of what a machine sends; empty for the kernel's."""
        if not self.delay_ms:
            return self.downlink
        # netem shapes too. As the parent of a tbf it would have to be tuned to it.
        limits = ["delay", f"{self.delay_ms}ms", "limit", str(QUEUED_PACKETS)]
        rate = ["rate", f"{self.mbit_per_s}mbit"] if self.mbit_per_s else []
        return ["netem", *limits, *rate]

    @property
    def downlink(self) -> list[str]:
        """The queueing discipline of what a machine receives, at the switch."""
        if self.mbit_per_s is None:
            return []
        burst = max(MIN_BURST, round(self.mbit_per_s * 1e6 / 8 * self.burst_s))
        rate = ["rate", f"{self.mbit_per_s}mbit", "burst", str(burst)]
        return ["tbf", *rate, "latency", f"{1000 * QUEUE_S:g}ms"]


RATES = ["100M", "1G", "10G", UNSHAPED]
"""Links that are measured by default, as `parse_rate` reads them."""


def parse_rate(text: str) -> int | None:
    """Read a rate such as "100M" or "10G", bits per second, or "unshaped".

    Returns
    -------
    int or None
        Megabits per second; None for "unshaped".

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if text == UNSHAPED:
        return None
    match = re.fullmatch(r"([1-9]\d{0,3})([MG])", text)
    if match is None:
        raise ValueError(
            f"the rate of a link is {text!r}; expected bits per second such as 100M or "
            f"10G, or {UNSHAPED}"
        )
    return int(match[1]) * (1000 if match[2] == "G" else 1)
