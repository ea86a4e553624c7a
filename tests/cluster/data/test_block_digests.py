"""Digests of blocks, compared whenever these are placed again."""

import pytest

from skdistmlp import ClusterError
from skdistmlp.cluster.data.block_digests import BlockDigests, check_none_changed


def test_blocks_that_have_changed_are_counted_and_the_first_is_named():
    check_none_changed([], "persist X")
    one = "^1 block of X, the first of them number 3, is not the same"
    with pytest.raises(ClusterError, match=one):
        check_none_changed([3], "persist X")
    several = "^2 blocks of X, the first of them number 3, are .* seed, or persist X"
    with pytest.raises(ClusterError, match=several):
        check_none_changed([3, 7], "persist X")


def test_a_block_must_be_as_it_was_when_it_was_placed_before():
    digests = BlockDigests()
    digests.placing()([0, 1], [b"a", b"b"])
    digests.placing()([1, 0], [b"b", b"a"])
    with pytest.raises(ClusterError, match="number 1, is not the same"):
        digests.placing()([0, 1], [b"a", b"c"])


def test_workers_need_not_agree_within_one_placement():
    """As on machines whose last bits differ."""
    digests = BlockDigests()
    note = digests.placing()
    note([0], [b"a"])
    note([0], [b"b"])
    for digest in (b"a", b"b"):
        digests.placing()([0], [digest])
    with pytest.raises(ClusterError, match="number 0, is not the same"):
        digests.placing()([0], [b"c"])


def test_blocks_that_an_earlier_placement_did_not_reach_may_be_anything():
    digests = BlockDigests()
    digests.placing()([0], [b"a"])
    digests.placing()([0, 1], [b"a", b"b"])
    with pytest.raises(ClusterError, match="number 1, is not the same"):
        digests.placing()([1], [b"c"])
