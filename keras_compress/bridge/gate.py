"""The gate: what a configuration may say before any Keras sees it.

Keras 2 resolves what a file names to any symbol of TensorFlow and any module, and calls it while it builds the graph;
Keras 3 refuses more, and not all. So nothing is built of a configuration unless every class, function and setting in
it is on a list (`allowed`). Which Keras wrote the file plays no part, since the file itself says so.
"""

import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_compress.bridge import allowed
from keras_compress.bridge.operations import KNOWN, bare_name
from keras_compress.errors import InputError

DEEPEST = 100  # of values within values; a model within a model takes about five
MOST_CALLS = 8_500  # of layers, to make and to connect them, those of a model within a model at each of its calls
LARGEST_INTEGER = 1 << 62
MOST_PARTS = 4096  # into which an operation cuts a tensor
CONSTANT = "_CONSTANT_VALUE"
NO_LAYERS = (*allowed.VALUES, *allowed.SMALL_OBJECTS)  # objects that may have a name too
MARSHALLED = ("lambda", "function")  # as `function_type` and the like call Python code in a file


class _RefusedError(Exception):
    """Why a configuration is refused."""


def check(configuration: Any, path: str | os.PathLike[str], *, allow_lambda: bool = False) -> None:
    """Looks at every value of a configuration that was read from a file.

    Args:
        configuration: as `json.loads` gives it.
        path: of the file, for messages.
        allow_lambda: let everything pass but a model too deep or too large to be built.

    Raises:
        InputError: code in it, a class, function or module that is not on the list, a path in place of what lies there,
            or more calls than any model has.
    """
    try:
        _check_size(configuration)
        if not allow_lambda:
            lambdas = sorted(set(_lambda_names(configuration)))
            if lambdas:
                raise InputError(
                    f"The model in {str(path)!r} has Lambda layers or lambda functions ({', '.join(lambdas)}), whose "
                    "Python code would run here. If you trust its origin, use load_model(path, allow_lambda=True) or "
                    "--allow_lambda."
                )
            unknown = ", ".join(dict.fromkeys(map(repr, unknown_names(configuration))))
            if unknown:
                raise InputError(what_keras_does_not_know(path, unknown))
            _check_value(configuration)
    except _RefusedError as reason:
        raise InputError(
            f"The model in {str(path)!r} is refused: {reason}. Only if you trust its origin, use "
            "load_model(path, allow_lambda=True) or --allow_lambda."
        ) from reason


def what_keras_does_not_know(path: str | os.PathLike[str], names: str) -> str:
    """The message of a file with classes or functions that are the user's own."""
    return (
        f"The model in {str(path)!r} uses {names}, which Keras does not know. Import the module that defines it before "
        "loading, and decorate it with @keras.saving.register_keras_serializable()."
    )


def objects_in(configuration: Any) -> Iterator[dict[str, Any]]:
    """Every serialized object in a configuration, from the outside in."""
    if isinstance(configuration, dict):
        if "class_name" in configuration:
            yield configuration
        for value in configuration.values():
            yield from objects_in(value)
    elif isinstance(configuration, list):
        for value in configuration:
            yield from objects_in(value)


def _check_size(configuration: Any) -> None:
    """Raises _RefusedError for what is too deep or too large to be built, whoever wrote it."""
    level, depth = [configuration], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise _RefusedError(f"it has values within values, more than {DEEPEST} deep")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, int) and abs(value) > LARGEST_INTEGER:
                raise _RefusedError("it has an integer of more than 62 bits")
        level = [value for value in inner if isinstance(value, (dict, list, int))]
    calls = _calls(configuration)
    if calls > MOST_CALLS:
        raise _RefusedError(f"its layers are called {calls:.3g} times, and at most {MOST_CALLS:,} are built")


def _calls(value: Any) -> int:
    """How often layers are called while a model is built: each once by itself, and at each of its places."""
    if isinstance(value, list):
        return sum(map(_calls, value))
    if not isinstance(value, dict):
        return 0
    within = sum(_calls(each) for key, each in value.items() if key != "inbound_nodes")
    if "class_name" not in value or "config" not in value or value["class_name"] in NO_LAYERS:
        return within
    nodes = value.get("inbound_nodes")
    places = len(nodes) if isinstance(nodes, list) else 1
    return (1 + max(places, 1)) * within + max(places, 1) if _is_layer(value) else within


def _is_layer(entry: dict[str, Any]) -> bool:
    """Whether an object is a layer or a model, as far as its settings tell."""
    return isinstance(entry["config"], list) or (
        isinstance(entry["config"], dict) and ("name" in entry["config"] or "layers" in entry["config"])
    )


def _lambda_names(configuration: Any) -> Iterator[str]:
    for entry in objects_in(configuration):
        if entry["class_name"] == "Lambda":
            settings = entry.get("config")
            yield repr(settings.get("name", "Lambda") if isinstance(settings, dict) else "Lambda")
        elif entry["class_name"] == "__lambda__":
            yield "a lambda function"


def unknown_names(configuration: Any) -> Iterator[str]:
    """Classes and functions that are neither of Keras nor registered with it."""
    for entry in objects_in(configuration):
        name, settings = entry["class_name"], entry.get("config")
        if name == "function" and isinstance(settings, str):
            name, known = settings, settings in allowed.FUNCTIONS or not _names_another_library(entry)
        elif isinstance(entry.get("registered_name"), str):  # Keras 3
            known = _is_of_keras(entry.get("module"))
            name = entry["registered_name"]
        elif isinstance(name, str) and isinstance(settings, dict) and "name" in settings and "module" not in entry:
            known = name in allowed.CLASSES or hasattr(keras.layers, name)  # a layer in the legacy format
        else:
            continue
        if not known and not _is_registered(name):
            yield name.rpartition(">")[2]  # registered names are PACKAGE>NAME


def _is_of_keras(module: Any) -> bool:
    return isinstance(module, str) and module.split(".")[0] in ("keras", "tf_keras")


def _names_another_library(entry: dict[str, Any]) -> bool:
    module = entry.get("module")
    return module is not None and not _is_of_keras(module)


def _is_registered(name: Any) -> bool:
    """Whether the user's own program has registered a class or function under a name."""
    return isinstance(name, str) and keras.saving.get_registered_object(name) is not None


def _check_value(value: Any) -> None:
    if isinstance(value, list):
        for each in value:
            _check_value(each)
    elif isinstance(value, dict):
        if "class_name" in value:
            _check_object(value)
        for setting, each in value.items():
            _check_setting(setting, each)
            _check_value(each)


def _check_object(entry: dict[str, Any]) -> None:
    """Its class, where that is looked for, and the places where it is called."""
    name, module, registered = entry["class_name"], entry.get("module"), entry.get("registered_name")
    if not isinstance(name, str) or not isinstance(registered, str | None) or not isinstance(module, str | None):
        raise _RefusedError("an object in it has a class, module or registered name that is no text")
    if name == "function":
        name = entry.get("config")
        if not isinstance(name, str):
            raise _RefusedError("a function in it has no name")
        if module == "builtins":
            module = None
        if not _is_registered(name) and name not in allowed.FUNCTIONS:
            raise _RefusedError(f"it calls the function {name[:80]!r}, which is not on the list")
    elif _is_registered(registered or name):
        return  # a class of the user's own program
    elif name not in allowed.CLASSES:
        raise _RefusedError(f"it has an object of class {name[:80]!r}, which is not on the list")
    if registered not in (None, name, "function") and not _is_registered(registered):
        raise _RefusedError(f"it registers {name!r} as {registered[:80]!r}")
    if module is not None and not allowed.MODULE.fullmatch(module) and not _is_registered(name):
        raise _RefusedError(f"it looks for {name!r} in the module {module[:80]!r}")
    settings = entry.get("config")
    if name in ("__numpy__", "__tensor__") and not (
        isinstance(settings, dict) and str(settings.get("dtype")) in allowed.DTYPES
    ):
        raise _RefusedError("an array in it has an unknown type")
    if name in allowed.FUNCTIONS_OF_TENSORFLOW:
        function = settings.get("function") if isinstance(settings, dict) else None
        if not isinstance(function, str) or bare_name(function) not in KNOWN:
            raise _RefusedError(f"layer {entry.get('name')!r} calls tf.{str(function)[:80]}, which is not on the list")
    if name in ("Split", "ArraySplit") and isinstance(settings, dict):
        parts = settings.get("indices_or_sections")
        if isinstance(parts, int) and parts > MOST_PARTS:
            raise _RefusedError(f"it cuts a tensor into {parts:,} parts, and at most {MOST_PARTS:,} are made")
    if "inbound_nodes" in entry:
        _check_nodes(entry["inbound_nodes"], name)


def _check_setting(setting: str, value: Any) -> None:
    if isinstance(value, str):
        if setting.endswith("_type") and value in MARSHALLED:
            raise _RefusedError(f"it has Python code ({setting}: {value!r})")
        if allowed.PATHS.search(setting):
            raise _RefusedError(f"its setting {setting} is the path {value[:80]!r}, and not what lies there")
    if setting in allowed.COUNTS and isinstance(value, (int, float)) and value > allowed.LARGEST_COUNT:
        raise _RefusedError(f"its setting {setting} is {value:,}, and at most {allowed.LARGEST_COUNT:,} is taken")
    for end, names in allowed.NAMED.items():
        if setting.endswith(end):
            _check_named(setting, value, names)


def _check_named(setting: str, value: Any, names: frozenset[str]) -> None:
    """A setting that holds an object by its name, or as an object, which `_check_object` looks at."""
    known = value is None or (
        (value in names or _is_registered(value)) if isinstance(value, str)
        else isinstance(value, dict) and isinstance(value.get("class_name"), str)
    )  # fmt: skip
    if not known:
        raise _RefusedError(f"its setting {setting} is {str(value)[:80]!r}, which is not on the list")


def _check_nodes(nodes: Any, name: str) -> None:
    """The calls of a layer: each with a tensor of the model, or the layer would compute something now."""
    if not isinstance(nodes, list):
        raise _RefusedError(f"the calls of a layer {name} are no list")
    for node in nodes:
        if not _has_tensor(node):
            raise _RefusedError(f"a layer {name} is called without a tensor of the model")
        _check_constants(node, name)


def _has_tensor(node: Any) -> bool:
    """Whether a call names a tensor: as ["layer", 0, 0], or as Keras 3 writes it."""
    if isinstance(node, dict):
        return node.get("class_name") == "__keras_tensor__" or any(map(_has_tensor, node.values()))
    if not isinstance(node, list):
        return False
    reference = len(node) >= 3 and isinstance(node[0], str) and node[0] != CONSTANT and isinstance(node[1], int)
    return reference or any(map(_has_tensor, node))


def _check_constants(node: Any, name: str) -> None:
    """Constants are numbers; a text is the name of a layer, of a type, or the keyword of an argument."""
    if isinstance(node, dict):
        for key, each in node.items():
            text = name in allowed.FUNCTIONS_OF_TENSORFLOW and isinstance(each, str)
            if text and not (key in ("name", "class_name") or (key == "dtype" and each in allowed.DTYPES)):
                raise _RefusedError(f"a layer {name} gets the text {each[:80]!r} as {key[:80]}")
            _check_constants(each, name)
    elif isinstance(node, list):
        if node and node[0] == CONSTANT and any(map(_has_text, node[1:3])):
            raise _RefusedError(f"a layer {name} gets a text as a constant")
        for each in node:
            _check_constants(each, name)


def _has_text(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_text(each) for key, each in value.items() if key != "class_name")
    return any(map(_has_text, value)) if isinstance(value, list) else isinstance(value, str)
