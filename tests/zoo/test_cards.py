import json
import pathlib

import pytest

from keras_compress.errors import InputError
from keras_compress.zoo.cards import ModelCard, model_paths
from keras_compress.zoo.encoding import Column, TableEncoding
from keras_compress.zoo.preprocessing import Preprocessing


@pytest.fixture
def card() -> ModelCard:
    return ModelCard(
        dataset="digits",
        architecture="cnn",
        preprocessing=Preprocessing(scale=0.1, mean=[1.0, 2.0], std=[3.0, 4.0], shape=(8, 8, 1)),
        seed=3,
        accuracy={"train": 0.9, "validation": 0.8, "test": 0.7},
        history={"loss": [2.0, 1.0]},
        table=TableEncoding((Column("length"), Column("color", ("red", ""))), "species"),
    )


def test_a_card_comes_back_from_its_file(card, tmp_path):
    card.write(tmp_path / "a.json")
    assert ModelCard.read(tmp_path / "a.json") == card


def test_a_card_says_what_made_the_network(card, tmp_path):
    card.write(tmp_path / "a.json")
    fields = json.loads((tmp_path / "a.json").read_text())
    assert fields["format_version"] == 1
    assert set(fields["versions"]) == {"python", "keras", "tensorflow", "numpy"}
    assert fields["preprocessing"] == {"scale": 0.1, "mean": [1.0, 2.0], "std": [3.0, 4.0], "shape": [8, 8, 1]}


def test_a_card_loads_its_data_set_with_the_same_split(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,kind,b\n" + "".join(f"{index},{index % 2},{index % 3}\n" for index in range(60)))
    cards = [
        ModelCard(str(path), "mlp", Preprocessing(), seed=seed, dataset_options={"label_column": "kind"})
        for seed in (0, 0, 1)
    ]
    first, same, other = [card.load_dataset() for card in cards]
    assert first.class_names == ["0", "1"]
    assert first.x_test.tolist() == same.x_test.tolist() != other.x_test.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda fields: fields.pop("preprocessing"), r"is not a model card \(KeyError: 'preprocessing'\)"),
        (lambda fields: fields.update(color="red"), "is not a model card .*color"),
        (lambda fields: fields.update(format_version=2), "has format 2; this keras_compress reads format 1"),
    ],
)
def test_a_foreign_card_is_refused(card, tmp_path, change, message):
    path = tmp_path / "a.json"
    card.write(path)
    fields = json.loads(path.read_text())
    change(fields)
    path.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=message):
        ModelCard.read(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3"])
def test_what_is_no_card_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json' is not a model card"):
        ModelCard.read(tmp_path / "a.json")


def test_a_missing_card_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a\.json' cannot be read \(No such file or directory\)"):
        ModelCard.read(tmp_path / "a.json")


def test_paths_of_a_name():
    folder = pathlib.Path("models")
    assert model_paths(folder, "a.b") == (folder / "a.b.keras", folder / "a.b.json")


@pytest.mark.parametrize("name", ["", "../a", "a/b", "/a", ".a", ".."])
def test_a_path_is_no_name(name):
    with pytest.raises(InputError, match="A name of files must not"):
        model_paths(pathlib.Path("models"), name)
