"""Files that end too early: each gives one line that says so."""

import pathlib

import pytest

import keras_compress as kc
from keras_compress import sweep, zoo
from keras_compress.errors import UserError

TENTHS = range(10)


def cut(path: pathlib.Path, tenths: int) -> None:
    """Leaves so many tenths of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenths // 10])


def assert_clear(error: UserError, path: pathlib.Path) -> None:
    message = str(error)
    assert "\n" not in message and len(message) < 600
    assert path.name.split(".")[0] in message


@pytest.mark.parametrize("tenths", TENTHS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.filterwarnings("ignore:.*HDF5 file.*:UserWarning")
def test_a_cut_model(tmp_path, model, suffix, tenths):
    path = tmp_path / f"model{suffix}"
    model.save(path)
    cut(path, tenths)
    with pytest.raises(UserError) as caught:
        kc.load_model(path)
    assert_clear(caught.value, path)


@pytest.mark.parametrize("tenths", TENTHS)
@pytest.mark.parametrize("suffix", [".keras", ".codes.npz", ".json"])
def test_a_cut_result(tmp_path, model, suffix, tenths):
    kc.quantize(model, kc.MSQ(4)).save(tmp_path / "result")
    path = tmp_path / f"result{suffix}"
    cut(path, tenths)
    with pytest.raises(UserError) as caught:
        kc.load_result(tmp_path / "result")
    assert_clear(caught.value, path)


@pytest.mark.parametrize("tenths", TENTHS)
def test_a_cut_model_card(tmp_path, tenths):
    path = tmp_path / "network.json"
    zoo.ModelCard("digits", "cnn", zoo.Preprocessing(), 0).write(path)
    cut(path, tenths)
    with pytest.raises(UserError) as caught:
        zoo.ModelCard.read(path)
    assert_clear(caught.value, path)


@pytest.mark.parametrize("tenths", TENTHS)
def test_a_cut_data_set(tmp_path, tenths):
    path = tmp_path / "mine.npz"
    path.write_bytes((pathlib.Path(zoo.__file__).parent / "digits.npz").read_bytes())
    cut(path, tenths)
    with pytest.raises(UserError) as caught:
        zoo.load_dataset(str(path))
    assert_clear(caught.value, path)


@pytest.mark.parametrize("tenths", TENTHS)
def test_a_cut_table_of_records_keeps_its_whole_rows(tmp_path, tenths):
    path = tmp_path / "rows.csv"
    records = sweep.Records(path)
    for seed in range(5):
        records.append({"method": "msq", "seed": seed})
    cut(path, tenths)
    left = sweep.Records(path).rows
    assert [row["seed"] for row in left] == list(range(len(left)))
    assert len(left) < 5
    for seed in range(len(left), 5):
        sweep.Records(path).append({"method": "msq", "seed": seed})
    assert [row["seed"] for row in sweep.Records(path).rows] == list(range(5))
