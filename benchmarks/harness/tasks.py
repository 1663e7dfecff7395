"""Trainings of networks that others trained: their data, and how they are compiled."""

import pathlib
from typing import Any, NamedTuple

BATCH_SIZE = 64
CALIBRATION = 500  # samples


class Task(NamedTuple):
    """A network and the data of its training."""

    model: Any
    train: Any
    calibration: Any  # training samples without labels
    test: tuple[Any, Any]

    def training(self, source: Any, epochs: int, learning_rate: float, seed: int = 0) -> dict[str, Any]:
        """Settings of one training of a network, which is compiled for it."""
        import keras

        import keras_compress as kc
        from keras_compress.fitting.compiling import loss_for

        rate = keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(self.train))
        model = source.model if isinstance(source, kc.Result) else source
        loss = loss_for(model, self.train[0][1])
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        return {"training": kc.Training(epochs, seed=seed, verbose=0)}


def task_of(network: Any, data: pathlib.Path, seed: int = 0) -> Task:
    """A network's training; `seed` is that of the order of images and of their augmentation."""
    import keras_compress as kc
    from keras_compress import sweep, zoo
    from keras_compress.zoo.batches import augmentation_for

    dataset = zoo.load_dataset(str(data / f"{network.dataset}.npz"))
    samples = sweep.DataSplits.of(dataset, network.preprocessing)
    augment = augmentation_for(network.dataset)
    train = zoo.Batches(samples.x_train, dataset.y_train, network.preprocessing, BATCH_SIZE, augment=augment, seed=seed)
    return Task(
        kc.load_model(network.path),
        train,
        samples.calibration(CALIBRATION, 0).read().inputs,
        samples.test().read().parts,
    )
