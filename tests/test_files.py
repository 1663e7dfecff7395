"""Files are whole or not there, whatever happens to the process that writes them."""

from keras_compress import files


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    path = tmp_path / "state[1].npz"
    (tmp_path / ".state[1]-abc.npz").touch()
    others = [tmp_path / name for name in (".state[2]-abc.npz", ".state[1]-abc.json", "state[1].npz")]
    for other in others:
        other.touch()
    files.remove_parts(path)
    assert sorted(tmp_path.iterdir()) == sorted(others)
