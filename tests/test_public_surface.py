"""Every public name is there, is documented, and is what the package says it is."""

import inspect

import pytest

import keras_compress as kc

NAMES = [name for name in kc.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_defined_where_it_is_looked_up(name):
    public = getattr(kc, name)
    assert public.__name__ == name
    assert public.__module__ == kc._MODULES[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_has_a_docstring_that_begins_with_a_sentence(name):
    assert inspect.getdoc(getattr(kc, name)).splitlines()[0][-1] in ".:"


@pytest.mark.parametrize("name", ["Calibration", "Equispaced", "GPFQ", "Integer", "MSQ", "Midtread", "quantize"])
def test_every_argument_is_described(name):
    public = getattr(kc, name)
    for argument in inspect.signature(public).parameters:
        assert f"\n    {argument}: " in inspect.getdoc(public), argument


def test_names_are_listed():
    assert set(kc.__all__) <= set(dir(kc))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        kc.quantise  # noqa: B018


@pytest.mark.parametrize("name", ["InputError", "StorageError"])
def test_what_a_user_can_fix_is_one_family(name):
    assert issubclass(getattr(kc, name), kc.UserError)


def test_errors_are_the_builtin_ones_too():
    assert issubclass(kc.InputError, ValueError)
    assert issubclass(kc.StorageError, OSError)
