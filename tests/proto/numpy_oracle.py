"""What NumPy says about .npy files and 16-bit floats, for npy_test and text_test.

numpy_oracle.py write DIR   writes .npy files, and DIR/manifest: a line "FILE|TYPE|SHAPE" for each that can be read,
                            with its elements in FILE.raw, or "FILE|error|TEXT" with a word of the error
numpy_oracle.py check DIR   reads the files that DIR/manifest names in the same form; fails if one differs
numpy_oracle.py halves      prints the float32 bits and the shortest text of every finite or infinite float16
"""
import itertools
import os
import sys

import numpy as np

TYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
         "float16", "float32", "float64"]
SHAPES = [(), (1,), (3,), (0,), (2, 3), (1, 5), (0, 4), (2, 3, 4), (1,) * 16]
VERSIONS = [(1, 0), (2, 0), (3, 0)]


def readable():
    for dtype, shape in itertools.product(TYPES, SHAPES):
        yield np.random.default_rng(7).integers(0, 100, shape).astype(dtype)
    yield np.asfortranarray(np.ones((1, 5), "float32"))
    yield np.arange(4, dtype="float64").reshape(4, 1, order="F")


def refused():
    yield np.ones((2, 3), "float32", order="F"), "Fortran"
    yield np.ones(3, ">f4"), "big-endian"
    yield np.ones(3, ">i8"), "big-endian"
    yield np.ones(3, "complex64"), "NumPy type"
    yield np.ones(3, "longdouble"), "NumPy type"
    yield np.ones(3, "<U4"), "NumPy type"
    yield np.ones(3, "S4"), "NumPy type"
    yield np.ones(3, "M8[s]"), "NumPy type"
    yield np.array([{}, None], object), "NumPy type"
    yield np.ones(3, [("a", "f4"), ("b", "i4")]), "structured"
    yield np.ones((1,) * 17, "int8"), "17 dimensions"


def save(folder, name, array, version):
    with open(os.path.join(folder, name), "wb") as file:
        np.lib.format.write_array(file, array, version=version)


def write(folder):
    names = (f"{i}.npy" for i in itertools.count())
    with open(os.path.join(folder, "manifest"), "w") as manifest:
        for array, version in itertools.product(readable(), VERSIONS):
            name = next(names)
            save(folder, name, array, version)
            array.tofile(os.path.join(folder, name + ".raw"))
            print(name, array.dtype.name, ",".join(map(str, array.shape)), sep="|", file=manifest)
        for (array, text), version in itertools.product(refused(), VERSIONS):
            name = next(names)
            save(folder, name, array, version)
            print(name, "error", text, sep="|", file=manifest)


def check(folder):
    for line in open(os.path.join(folder, "manifest")):
        name, dtype, shape = line.rstrip("\n").split("|")
        path = os.path.join(folder, name)
        array = np.load(path)
        expected = np.fromfile(path + ".raw", dtype).reshape([int(n) for n in shape.split(",") if n])
        assert array.dtype == expected.dtype and array.shape == expected.shape, line
        assert array.tobytes() == expected.tobytes(), line
        assert np.load(path, mmap_mode="r").offset % 64 == 0, line


def halves():
    for bits in range(1 << 16):
        value = np.uint16(bits).view(np.float16)
        if not np.isnan(value):
            print(bits, int(np.float32(value).view(np.uint32)),
                  np.format_float_scientific(value, unique=True, trim="-"))


if __name__ == "__main__":
    {"write": write, "check": check, "halves": halves}[sys.argv[1]](*sys.argv[2:])
