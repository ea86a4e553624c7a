"""Rates of a core: between widths, and the reference."""

from dataclasses import replace

import pytest

from skdistmlp.planning.rates import REFERENCE


def test_rates_of_products_are_interpolated_by_their_least_dimension():
    found = replace(REFERENCE, flop_per_s={1: 1e9, 4: 4e9, 1024: 16e9})
    assert found.product_s(100, 4, 30) == pytest.approx(2 * 100 * 4 * 30 / 4e9)
    assert found.product_s(2, 4, 30) == pytest.approx(2 * 2 * 4 * 30 / 2e9)
    large = 2 * 2000.0**3
    assert found.product_s(2000, 2000, 2000) == pytest.approx(large / 16e9)
    assert found.product_s(0.5, 4, 4) == pytest.approx(2 * 0.5 * 4 * 4 / 1e9)
    assert found.product_s(5, 0, 5) == 0
    assert found.product_s(4, 4, 4, itemsize=8) == 2 * found.product_s(4, 4, 4)


def test_the_reference_is_faster_the_wider_products_are():
    rates = list(REFERENCE.flop_per_s.values())
    assert rates == sorted(rates)
    assert REFERENCE.update_s(REFERENCE.optimizer_bytes_per_s) == 1.0
