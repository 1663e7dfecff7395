"""The header holds the bytes of the file, under names that a C compiler takes."""

import re
import shutil
import subprocess

import numpy as np
import pytest

import keras_compress as kc

CONTENT = b"\x14\x00\x00\x00TFL3" + bytes(np.random.default_rng(0).integers(0, 256, 1001, dtype=np.uint8))
PROGRAM = """
#include <cstdio>
#include "HEADER"
int main() { std::fwrite(NAME, 1, NAME_len, stdout); return reinterpret_cast<unsigned long>(NAME) % 16; }
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "my-net.v2.tflite"
    path.write_bytes(CONTENT)
    return path


def test_the_bytes_are_those_of_the_file(path):
    header = kc.export_c_array(path)
    assert header == path.with_name("my-net.v2.h")
    text = header.read_text()
    assert bytes(int(byte, 16) for byte in re.findall(r"0x[0-9a-f]{2}", text)) == CONTENT
    assert "const unsigned char my_net_v2_tflite[] = {" in text
    assert f"const unsigned int my_net_v2_tflite_len = {len(CONTENT)};" in text
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("standard", ["c++11", "c++20"])
def test_a_compiler_reads_it(path, tmp_path, standard):
    header = kc.export_c_array(path, tmp_path / "model.h", name="g_model")
    source = tmp_path / "main.cc"
    source.write_text(PROGRAM.replace("HEADER", header.name).replace("NAME", "g_model"))
    subprocess.run(["c++", f"-std={standard}", "-Wall", "-Werror", source, "-o", tmp_path / "main"], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)  # aligned: the exit code is 0
    assert done.stdout == CONTENT


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_c_reads_it_too(path, tmp_path):
    header = kc.export_c_array(path, name="g_model")
    source = tmp_path / "main.c"
    source.write_text(
        f'#include "{header.name}"\nint main(void) {{ return g_model[4] != 84 || g_model_len != 1009; }}\n'
    )
    subprocess.run(["cc", "-std=c11", "-Wall", "-Werror", source, "-o", tmp_path / "main"], check=True)
    subprocess.run([tmp_path / "main"], check=True)


def test_a_name_that_begins_with_a_digit(tmp_path):
    (tmp_path / "4bits.tflite").write_bytes(CONTENT)
    assert "_4bits_tflite_len" in kc.export_c_array(tmp_path / "4bits.tflite").read_text()


def test_bad_input_is_refused_and_leaves_nothing(path, tmp_path):
    (tmp_path / "notes.tflite").write_text("no such file")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kc.InputError, match="is no TFLite file"):
        kc.export_c_array(tmp_path / "notes.tflite")
    with pytest.raises(kc.InputError, match=r"name must be a C name: .* Received: 'a-b'"):
        kc.export_c_array(path, name="a-b")
    with pytest.raises(kc.StorageError, match="cannot be read"):
        kc.export_c_array(tmp_path / "none.tflite")
    assert sorted(tmp_path.iterdir()) == before
