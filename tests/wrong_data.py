"""Samples that do not fit a network's inputs and outputs, for every command that takes samples: one line, exit code 2.

The networks and the data sets are those of tests/commands/conftest.py.
"""

CASES = [
    ("tiny", "larger", "error: Data set 'larger' (training samples) does not fit a network for 'digits'. Samples of "
     "shape (8, 8, 1) are expected. Received: samples of shape (9, 9)."),
    ("tiny", "colored", "Received: samples of shape (8, 8, 3)."),
    ("tiny", "reshaped", "Received: samples of shape (4, 16)."),
    ("bare", "larger", "(8, 8, 1)"),
    ("bare", "colored", "(8, 8, 1)"),
    ("nine", "larger", "(9,)"),
    ("tiny", "fewer", "The model has 10 classes. Received: a data set with 4."),
    ("tiny", "more", "The model has 10 classes. Received: a data set with 12."),
    ("bare", "more", "The model has 10 classes. Received: a data set with 12."),
]  # fmt: skip


def check(call, folder):
    """Calls the command with each of them, in a folder where it leaves nothing."""
    for network, data, message in CASES:
        done = call(network, f"--dataset=serialized_models/{data}.npz")
        assert done.code == 2 and done.out == "" and message in done.err, done
        assert done.err.startswith("error: ") and done.err.count("\n") == 1, done.err
    assert {path.name for path in folder.iterdir()} <= {"serialized_models", "train_logs"}
