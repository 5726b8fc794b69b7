"""usage: quickstart_image.py FOLDER

Writes the image that the quickstart sends, 3000 x 2500 float32 with the value i / 7,500,000 at flat index i, as FOLDER/image.npy
and as bare values, FOLDER/image.f32; and the small twin FOLDER/one.f32, one element for the whole image.
"""
import array
import pathlib
import sys

ROWS, COLUMNS = 3000, 2500


def npy_header():
    # numpy/lib/format.py, "Format Version 1.0": padded so that the values start at a multiple of 64 bytes.
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {COLUMNS}), }}"
    text = text.ljust(128 - 10 - 1) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def main(folder):
    size = ROWS * COLUMNS
    values = array.array("f", (i / size for i in range(size)))
    if sys.byteorder == "big":
        values.byteswap()
    (folder / "image.f32").write_bytes(values)
    (folder / "image.npy").write_bytes(npy_header() + values.tobytes())
    (folder / "one.f32").write_bytes(array.array("f", [0.5]).tobytes())


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
