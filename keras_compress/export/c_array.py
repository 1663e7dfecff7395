"""`export_c_array()`: a TFLite file as C source, for devices without files. Loads neither TensorFlow nor Keras."""

import os
import pathlib
import re

from keras_compress.errors import InputError
from keras_compress.files import replacing
from keras_compress.measurement import flatbuffer

BYTES_A_LINE = 12  # as xxd writes them
TEMPLATE = """\
// {bytes:,} bytes of {file}, written by keras_compress. Include it in one source file.
#ifndef {guard}
#define {guard}

#if defined(__cplusplus)
alignas(16)
#else
_Alignas(16)
#endif
const unsigned char {name}[] = {{
{lines}
}};
const unsigned int {name}_len = {length};

#endif  // {guard}
"""


def export_c_array(
    path: str | os.PathLike[str], header: str | os.PathLike[str] | None = None, *, name: str | None = None
) -> pathlib.Path:
    """Writes a TFLite file as a C or C++ header, which `tflite::GetModel(NAME)` of TensorFlow Lite Micro reads.

    The array and its length have the names that `xxd -i` gives: `digits_tflite` and `digits_tflite_len` for
    digits.tflite. It begins at a multiple of 16 bytes, which the interpreter needs and `xxd` does not ensure.

    Args:
        path: of the TFLite file.
        header: of the header; None is the same name with .h.
        name: of the array; None is made of the file's name.

    Returns:
        The header's path.

    Raises:
        StorageError: there is no such file, or the header cannot be written.
        InputError: no TFLite file, or a name that C does not take.
    """
    path = pathlib.Path(path)
    content = flatbuffer.read_bytes(path)
    if name is None:
        name = re.sub(r"[^0-9A-Za-z_]", "_", path.name)
        name = f"_{name}" if name[0].isdigit() else name
    if not re.fullmatch(r"[A-Za-z_][0-9A-Za-z_]*", name):
        raise InputError(f"name must be a C name: letters, digits, underscores. Received: {name!r}.")
    header = path.with_suffix(".h") if header is None else pathlib.Path(header)
    texts = [f"0x{byte:02x}" for byte in content]
    lines = (", ".join(texts[start : start + BYTES_A_LINE]) for start in range(0, len(texts), BYTES_A_LINE))
    text = TEMPLATE.format(
        bytes=len(content),
        file=path.name,
        guard=f"{name.upper()}_H_",
        name=name,
        lines=",\n".join(f"  {line}" for line in lines),
        length=len(content),
    )
    with replacing(header) as part:
        part.write_text(text)
    return header
