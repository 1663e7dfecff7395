from keras_compress import sweep
from keras_compress.sweep.tables import NOTE_SELECTION, NOTE_TEST

ROW = {
    "model": "net", "method": "gpfq", "alphabet": "integer", "bits": 4, "levels": 15, "scalar": 1.0,
    "dense_scalar": 1.0, "samples": 500, "float_top1": 0.95, "float_top5": 0.99, "top1": 0.94, "top5": 0.985,
    "selection_top1": 0.93, "test_samples": 10000, "layer_error": 0.1, "zeros": 0.3, "raw_bytes": 10**6,
    "ideal_bytes": 10**5, "seconds": 1.25,
}  # fmt: skip


def test_the_widest_table_fits():
    widest = ROW | {
        "method": "gpfq_uncentered", "alphabet": "integer_full", "bits": 16, "levels": 65536,
        "scalar": 1.125, "dense_scalar": 10.25, "samples": 50000, "top1": 0.01, "layer_error": 123.45,
        "ideal_bytes": 10**9, "seconds": 12345.6, "top5": 1.0,
    }  # fmt: skip
    lines = sweep.table([ROW, widest]).splitlines()
    assert max(map(len, lines)) <= 120
    assert "C dense" in lines[1] and "kB ideal" in lines[1]


def test_an_ordinary_table_has_every_column():
    lines = sweep.table([ROW, ROW | {"method": "msq", "bits": None, "levels": 3, "zeros": 0.5}]).splitlines()
    assert lines == [
        "net on 10,000 test samples: float top-1 95.00%, top-5 99.00%, 1,000.0 kB",
        "method  alphabet  bits  levels  C  samples   top-1   lost   top-5   error  zeros  kB ideal    s",
        "gpfq    integer      4      15  1      500  94.00%  1.00%  98.50%  10.00%  30.0%     100.0  1.2 *",
        "msq     integer              3  1      500  94.00%  1.00%  98.50%  10.00%  50.0%     100.0  1.2 *",
        NOTE_SELECTION,
    ]


def test_the_best_of_each_method_is_chosen_on_training_samples():
    rows = [
        ROW | {"method": method, "bits": bits, "selection_top1": selection, "top1": top1}
        for method, bits, selection, top1 in (
            ("gpfq", 2, 0.8, 0.9), ("gpfq", 3, 0.9, 0.8), ("msq", 2, 0.6, 0.5), ("msq", 3, 0.5, 0.6),
        )
    ]  # fmt: skip
    lines = sweep.table(rows).splitlines()
    assert [line.endswith("*") for line in lines[2:6]] == [False, True, True, False]
    assert lines[-1] == NOTE_SELECTION


def test_without_training_labels_the_table_says_so():
    rows = [ROW | {"selection_top1": None, "top1": top1} for top1 in (0.8, 0.9)]
    lines = sweep.table(rows).splitlines()
    assert [line.endswith("*") for line in lines[2:4]] == [False, True]
    assert lines[-1] == NOTE_TEST


def test_columns_without_content_are_left_out():
    heading = sweep.table([ROW | {"top5": None, "float_top5": None}]).splitlines()[1]
    assert "top-5" not in heading and "C dense" not in heading


def test_an_empty_grid():
    assert sweep.table([]) == "no configurations"
