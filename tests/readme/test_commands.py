"""All that README tells a newcomer to type, from `make quickstart` on, in one shell that knows nothing."""

from tests import bare_shell


def test_the_readme_as_typed(tmp_path):
    folder = bare_shell.clone(tmp_path / "clone")
    (folder / "example.py").write_text(bare_shell.example())
    done = bare_shell.run([*bare_shell.commands(), "python example.py"], folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    print(done.stdout)
    assert "    . .venv/bin/activate\n" in done.stdout
    assert done.stdout.count("top-1 ") >= 2
    for path in ("serialized_models/digits_cnn.keras", "model_metrics/digits_cnn.csv", "train_logs/digits_samples.png"):
        assert (folder / path).is_file(), path
