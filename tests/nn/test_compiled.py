import sys
import types
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.nn import compiled
from skdistmlp.nn.optimizers import init, update
from skdistmlp.nn.update_rules import Adam, AdamW, NAdam, RMSprop
from tests.cluster.support import bounded
from tests.strategies import seeds

RULES = [
    Adam(),
    Adam(0.0, 0.0, 1e-3),
    Adam(0.5, 0.9, 1e-8),
    AdamW(weight_decay=0.3),
    RMSprop(),
    RMSprop(0.0, 1e-3),
    NAdam(),
    NAdam(0.5, 0.9, 1e-4),
]


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    forget(monkeypatch)


def forget(monkeypatch):
    for name, value in {"_updates": 0, "_compiled": {}}.items():
        monkeypatch.setattr(compiled, name, value)


def load_all():
    for kernel in compiled.KERNELS:
        compiled.load(kernel)


@cache
def all_loaded():
    """Return all kernels compiled; to read them again from a cache takes seconds."""
    load_all()
    return dict(compiled._compiled)


def trained(parameters, gradients, rule, n_coefs, penalty, scale=1.0):
    parameters = parameters.copy()
    state, norms = init(rule, parameters), []
    for step, gradient in enumerate(gradients, start=1):
        state, norm = update(
            state,
            parameters,
            gradient,
            0.01 / step,
            n_coefs=n_coefs,
            penalty=penalty,
            scale=scale,
        )
        norms.append(norm)
    return [parameters, *state.moments, norms]


@given(
    dtype=st.sampled_from([np.float32, np.float64]),
    size=st.integers(1, 70),
    share=st.floats(0, 1),
    penalty=st.sampled_from([0.0, 1e-7, 0.3]),
    clipping=st.sampled_from([1.0, 0.25, 1e-3]),
    rule=st.sampled_from(RULES),
    seed=seeds,
)
def test_numpy_and_numba_give_the_same_bits(
    dtype, size, share, penalty, clipping, rule, seed
):
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-6, 6, size=(4, size))
    parameters = rng.normal(size=size).astype(dtype)
    gradients = (rng.normal(size=(4, size)) * scale).astype(dtype)
    arguments = parameters, gradients, rule, round(share * size), penalty, clipping
    with pytest.MonkeyPatch.context() as patched:
        forget(patched)
        by_numpy = trained(*arguments)
        assert compiled._compiled == {}
        patched.setattr(compiled, "_compiled", all_loaded())
        assert None not in compiled._compiled.values()
        for one, other in zip(by_numpy, trained(*arguments), strict=True):
            assert_array_equal(one, other)


@dataclass(frozen=True)
class Decaying(Adam):
    """An optimiser that does more than the compiled code of the one it is made of."""

    def update_block(self, block, *args):
        block.parameters[...] *= 0.5
        super().update_block(block, *args)


@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_a_subclass_of_a_rule_updates_by_itself_even_with_a_penalty(
    penalty, monkeypatch
):
    rng = np.random.default_rng(0)
    parameters, gradients = rng.normal(size=70), rng.normal(size=(3, 70))
    arguments = parameters, gradients, Decaying(), 50, penalty
    by_numpy = trained(*arguments)
    monkeypatch.setattr(compiled, "_compiled", all_loaded())
    for one, other in zip(by_numpy, trained(*arguments), strict=True):
        assert_array_equal(one, other)
    assert not np.allclose(
        by_numpy[0], trained(parameters, gradients, Adam(), 50, penalty)[0]
    )


def test_with_a_penalty_every_parameter_is_counted_once(monkeypatch):
    trained(np.ones(70), np.ones((3, 70)), Adam(), 50, 0.3)
    assert compiled._updates == 3 * 70


def test_numba_is_loaded_after_enough_work_without_it(monkeypatch):
    monkeypatch.setattr(compiled, "UPDATES_BEFORE_LOADING", 100)
    assert [compiled.compiled(compiled.adam, 40) is None for _ in range(4)] == [
        True,
        True,
        0,
        0,
    ]


@pytest.mark.parametrize("loads", [True, False])
def test_numbers_that_are_not_counted_load_nothing_by_their_number(loads, monkeypatch):
    monkeypatch.setattr(compiled, "UPDATES_BEFORE_LOADING", 100)
    monkeypatch.setattr(compiled, "_compile", lambda kernel: kernel)
    with compiled.uncounted(loads=loads):
        for n_parameters in 0, 1000:
            found = compiled.compiled(compiled.adam, n_parameters)
            assert found is (compiled.adam if loads else None)
    assert compiled._updates == 0


@pytest.mark.parametrize("is_loaded", [True, False])
def test_kernels_that_are_asked_for_are_noted_once_loaded_too(is_loaded, monkeypatch):
    monkeypatch.setattr(
        compiled, "_compiled", dict.fromkeys([compiled.adam] * is_loaded)
    )
    with compiled.uncounted(loads=False) as asked_for:
        assert asked_for == set()
        compiled.compiled(compiled.adam, 1)
        assert asked_for == {compiled.adam}


def test_compiled_code_takes_memory_until_it_is_loaded(monkeypatch):
    assert compiled.bytes_to_load() == compiled.LOADED_BYTES
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "numba", None)
        assert compiled.bytes_to_load() == 0
    monkeypatch.setattr(compiled, "_compile", lambda kernel: kernel)
    compiled.load(compiled.adam)
    assert compiled.bytes_to_load() == 0


def test_other_threads_go_on_counting():
    with compiled.uncounted(loads=False):
        bounded(compiled.compiled, compiled.adam, 40)
        assert compiled._updates == 40


def test_without_numba_numpy_is_used_from_then_on():
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "numba", None)
        load_all()
    n_updates = 10 * compiled.UPDATES_BEFORE_LOADING
    assert [compiled.compiled(kernel, n_updates) for kernel in compiled.KERNELS] == [
        None
    ] * len(compiled.KERNELS)


def test_no_cache_folder_is_needed_for_compiled_code(monkeypatch):
    from numba.core import caching

    monkeypatch.setattr(caching.FunctionCache, "_impl_class", _NoPlace)
    compiled.load(compiled.adam)
    assert compiled._compiled[compiled.adam] is not None


@pytest.mark.parametrize("when", ["imported", "compiled"])
def test_a_numba_that_is_broken_ends_no_training(when, monkeypatch):
    def fail(*args, **options):
        raise SystemError("of another version")

    broken = types.ModuleType("numba")
    if when == "compiled":
        broken.njit = fail
    else:
        broken.__getattr__ = fail
    monkeypatch.setitem(sys.modules, "numba", broken)
    with pytest.warns(UserWarning, match="numba cannot compile here.*another version"):
        compiled.load(compiled.adam)
    assert compiled.compiled(compiled.adam, 0) is None


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch):
    from numba.core import caching

    def full(*args):
        raise OSError("disk full")

    monkeypatch.setattr(caching.FunctionCache, "save_overload", full)
    monkeypatch.setattr(caching.FunctionCache, "load_overload", lambda *_: None)
    compiled.load(compiled.adam)
    assert compiled.compiled(compiled.adam, 0) is not None


class _NoPlace:
    def __init__(self, py_func):
        raise RuntimeError("cannot cache function: no locator available")
