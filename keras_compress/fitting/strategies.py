"""Training on several devices or machines, by `tf.distribute`."""

import contextlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from keras_compress.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

STRATEGIES = ("none", "mirrored", "multiworker")


def strategy_of(name: str) -> "tf.distribute.Strategy | None":
    """What a name means: "none", all devices of this machine, or the workers in the variable TF_CONFIG.

    To be called before TensorFlow has computed anything: workers must find each other first.

    Raises:
        InputError: another name; no workers in TF_CONFIG.
    """
    if name not in STRATEGIES:
        raise InputError(f"strategy must be one of {', '.join(STRATEGIES)}. Received: {name!r}.")
    import tensorflow as tf  # not before: the names above are also needed where it takes too long to load

    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    if name == "multiworker":
        try:
            config = json.loads(os.environ.get("TF_CONFIG", ""))
            workers, task = config["cluster"]["worker"], config["task"]["index"]
        except (ValueError, KeyError, TypeError):
            workers, task = [], None
        if not workers or task is None:
            raise InputError(
                "strategy 'multiworker' needs the variable TF_CONFIG on each worker, such as "
                '{"cluster": {"worker": ["host1:2222", "host2:2222"]}, "task": {"type": "worker", "index": 0}}. '
                f"Received: {os.environ.get('TF_CONFIG')!r}."
            )
        print(f"worker {task + 1} of {len(workers)}: waiting for the others", file=sys.stderr)
        return tf.distribute.MultiWorkerMirroredStrategy()
    return None


def scope(strategy: "tf.distribute.Strategy | None") -> contextlib.AbstractContextManager[Any]:
    """In which variables belong to a strategy; nothing for None."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def distribute(model: Any, batch: Any) -> None:
    """Makes a compiled model that belongs to a strategy ready for `fit` or `evaluate`; nothing for any other.

    Keras 3.15 builds losses and metrics on a batch that it takes from the samples and does not give back, so that their
    order is another one than in a single process; with several workers it fails there, and where it averages the logs.

    Args:
        model: compiled.
        batch: (x, y) or (x, y, sample_weight), arrays.
    """
    strategy = model._distribute_strategy  # private, as all of it: there is no setting for this
    if strategy is None:
        return
    import tensorflow as tf

    with strategy.scope():
        model._symbolic_build(data_batch=batch)
    model._maybe_symbolic_build = lambda **settings: None
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and not hasattr(model, "_averages_logs"):
        model._averages_logs = True
        for name in ("train_step", "test_step"):
            setattr(model, name, _with_axis(getattr(model, name)))


def _with_axis(step: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """The step with logs of shape (1,): Keras takes their mean over workers along the first axis."""
    import tensorflow as tf

    return lambda data: {name: tf.reshape(value, [1]) for name, value in step(data).items()}


def task_of(strategy: "tf.distribute.Strategy | None") -> int:
    """Number of this worker; 0, the one that writes files, for the chief, or for the first where there is none."""
    resolver = None if strategy is None else strategy.cluster_resolver
    if resolver is None or resolver.task_id is None:
        return 0
    after_chief = resolver.task_type != "chief" and "chief" in resolver.cluster_spec().jobs
    return int(resolver.task_id) + after_chief
