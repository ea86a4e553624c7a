import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdistmlp.exceptions import ExchangeError
from skdistmlp.wire.packet import (
    DTYPES,
    HEADER_BYTES,
    MAGIC,
    STOP,
    Header,
    Operation,
    verify_header,
)

headers = st.builds(
    Header,
    run=st.binary(min_size=16, max_size=16),
    generation=st.integers(0, 2**32 - 1),
    step=st.integers(0, 2**64 - 1),
    operation=st.sampled_from(Operation),
    label=st.integers(0, 2**16 - 1),
    shard=st.integers(0, 2**16 - 1),
    dtype=st.integers(0, len(DTYPES) - 1),
    n_rows=st.integers(0, 2**32 - 1),
    n_columns=st.integers(0, 2**32 - 1),
    flags=st.sampled_from([0, STOP]),
)


@given(headers)
def test_a_header_and_its_flags_survive_a_round_trip(header):
    data = header.pack()
    assert len(data) == HEADER_BYTES
    assert Header.unpack(data) == header
    assert verify_header(data, header._replace(flags=0)) == header.flags


@given(headers, headers)
def test_only_the_expected_header_is_accepted(sent, expected):
    if sent._replace(flags=0) == expected._replace(flags=0):
        return
    with pytest.raises(ExchangeError, match="a packet has "):
        verify_header(sent.pack(), expected)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES), headers)
def test_any_other_bytes_are_refused(data, expected):
    if data[:-1] != expected.pack()[:-1]:
        with pytest.raises(ExchangeError):
            verify_header(data, expected)


def test_the_message_names_what_differs():
    expected = Header(b"r" * 16, 0, 7, Operation.ALL_REDUCE, 1, 0, 0, 200, 10)
    late = expected._replace(step=6, generation=1)
    with pytest.raises(
        ExchangeError,
        match="a packet has generation 1 instead of 0, step 6 instead of 7",
    ):
        verify_header(late.pack(), expected)


def test_unknown_flags_are_refused():
    expected = Header(b"r" * 16, 0, 7, Operation.ALL_REDUCE, 1, 0, 0, 200, 10)
    with pytest.raises(ExchangeError, match="flags 2 instead of 0"):
        verify_header(expected._replace(flags=2).pack(), expected)


def test_another_version_is_reported():
    data = bytearray(Header(b"r" * 16, 0, 0, Operation.HELLO, 0, 0, 0, 0, 0).pack())
    data[len(MAGIC)] += 1
    with pytest.raises(ExchangeError, match="version 2, but this side speaks"):
        Header.unpack(bytes(data))


def test_dtypes_are_those_of_networks():
    assert (np.dtype(np.float32), np.dtype(np.float64)) == DTYPES
