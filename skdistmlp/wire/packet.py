"""The packet: what an array looks like on the wire.

A packet is a header of fixed length and the raw bytes of one C-contiguous
array. Nothing is pickled. Both sides know from the plan what comes next, so a
header is not an instruction: it is compared with what is expected before any
byte of the array is read.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from skdistmlp.exceptions import ExchangeError

MAGIC = b"SKDM"
VERSION = 1

_LAYOUT = struct.Struct("<4sB16sIQBHHBIIB")
HEADER_BYTES = _LAYOUT.size

STOP = 1
"""Flag: this shard asks all to stop after this step."""

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
"""The dtypes that travel; a packet has their position here."""


class Operation(IntEnum):
    """What the shards do with the array."""

    HELLO = 0
    ALL_GATHER = 1
    REDUCE_SCATTER = 2
    ALL_REDUCE = 3
    BROADCAST = 4
    READY = 5


class Header(NamedTuple):
    """What a packet is, and where in the training it belongs.

    Attributes
    ----------
    run : bytes
        Sixteen bytes that name the fit.
    generation : int
        Which attempt at the fit: always 0, reserved for recovery from lost workers.
    step : int
        Number of the step, or block of rows, since the connections were made.
    operation : Operation
        What is done with the array.
    label : int
        Which exchange it is: the number of a layer, or a `Label`.
    shard : int
        Rank of the sender.
    dtype : int
        Position in `DTYPES`.
    n_rows, n_columns : int
        Shape of the array; one row if it has one dimension.
    flags : int
        `STOP` or 0; the only field that the receiver cannot foretell.
    """

    run: bytes
    generation: int
    step: int
    operation: Operation
    label: int
    shard: int
    dtype: int
    n_rows: int
    n_columns: int
    flags: int = 0

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return _LAYOUT.pack(MAGIC, VERSION, *self)

    @classmethod
    def unpack(cls, data: bytes) -> "Header":
        """Return the header with these bytes.

        Raises
        ------
        ExchangeError
            If they are not a header of this version.
        """
        magic, version, *fields = _LAYOUT.unpack(data)
        if magic != MAGIC:
            raise ExchangeError(
                f"expected a packet, which begins with {MAGIC!r}, but got {magic!r}"
            )
        if version != VERSION:
            raise ExchangeError(
                f"the packet is of version {version}, but this side speaks version "
                f"{VERSION}. Install the same skdistmlp on all workers."
            )
        return cls(*fields)


def verify_header(received: bytes | memoryview, expected: Header) -> int:
    """Compare a header with what the plan expects, and return its flags.

    Parameters
    ----------
    received : bytes-like of length HEADER_BYTES
        What came.
    expected : Header
        What should have come, whatever its flags.

    Raises
    ------
    ExchangeError
        If another field than the flags differs; the message names them.
    """
    data = bytes(received)
    # The flags are the last byte: everything else must be equal.
    flags = data[-1]
    if data[:-1] == expected.pack()[:-1] and flags in (0, STOP):
        return flags
    header = Header.unpack(data)
    differing = [
        f"{name} {found!r} instead of {wanted!r}"
        for name, found, wanted in zip(header._fields, header, expected, strict=True)
        if found != wanted
    ]
    raise ExchangeError(f"a packet has {', '.join(differing)}")
