"""Classes that users import name the path that they import them from."""

import inspect

import pytest

import skdistmlp
from skdistmlp.public import public

PUBLIC = [
    name
    for name in skdistmlp.__all__
    if inspect.isclass(getattr(skdistmlp, name))
    and not issubclass(getattr(skdistmlp, name), Exception)
]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_class_names_the_package(name):
    cls = getattr(skdistmlp, name)
    assert (cls.__module__, cls.__qualname__) == ("skdistmlp", name)
    # Rather no source than that of something else.
    with pytest.raises((OSError, TypeError)):
        inspect.getsource(cls)


def test_the_public_classes_are_found():
    assert {"DistributedMLPClassifier", "Plan", "NetworkSplit"} <= set(PUBLIC)


def test_everything_else_of_a_class_stays():
    class Some:
        """Some."""

        value = 3

    assert public(Some) is Some
    assert (Some.__doc__, Some.value, Some.__name__) == ("Some.", 3, "Some")
