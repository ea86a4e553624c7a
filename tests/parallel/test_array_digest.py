"""The digest by which arrays are recognized."""

import subprocess
import sys

import numpy as np
import pytest

from skdistmlp.parallel.array_digest import array_digest

ROWS = np.arange(12.0).reshape(4, 3)

OTHERS = {
    "another value": np.where(ROWS == 5, np.nextafter(5, 6), ROWS),
    "a negative zero": np.where(ROWS == 0, -0.0, ROWS),
    "another shape": ROWS.reshape(3, 4),
    "one dimension": ROWS.reshape(-1),
    "rows in another order": ROWS[::-1],
    "the same bits of another dtype": ROWS.view(np.int64),
    "the other byte order": ROWS.astype(">f8"),
    "fewer rows": ROWS[:3],
    "no rows": ROWS[:0],
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_other_arrays_have_another_digest(other):
    assert array_digest(other) != array_digest(ROWS)


def test_the_order_in_memory_does_not_matter():
    for same in (ROWS.copy(), np.asfortranarray(ROWS), ROWS[:, ::-1][:, ::-1]):
        assert array_digest(same) == array_digest(ROWS)


def test_where_one_of_several_arrays_ends_matters():
    flat = ROWS.reshape(-1)
    lists = [(flat,), (flat[:5], flat[5:]), (flat[:6], flat[6:]), (flat, flat[:0]), ()]
    assert len({array_digest(*arrays) for arrays in lists}) == len(lists)


def test_a_number_and_a_bool_have_one_too():
    each = {array_digest(np.array(value)) for value in (1, 2, True, False)}
    assert len(each) == 4


def test_it_is_the_same_in_every_process():
    code = (
        "import numpy as np; from skdistmlp.parallel.array_digest import array_digest;"
        "print(array_digest(np.arange(12.0).reshape(4, 3)).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == array_digest(ROWS).hex()
