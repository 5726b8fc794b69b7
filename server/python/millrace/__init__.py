"""Says what a function that is served takes and gives.

    @millrace.model(inputs={"image": ("float32", [-1, 2500])}, outputs={"std": ("float32", [])})
    def predict(image): ...

or, with type hints:

    def predict(image: Annotated[np.ndarray, millrace.Tensor("float32", [-1, 2500])]) -> np.ndarray: ...

Where neither is given, names are inferred, and any type and shape is taken.
"""

import pkgutil
from typing import NamedTuple, Optional, Sequence

# So that generated stubs, which are in a package of the same name, are found beside this.
__path__ = pkgutil.extend_path(__path__, __name__)

__all__ = ["Tensor", "model"]

DTYPES = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "bfloat16",
          "float32", "float64")


class Tensor(NamedTuple):
    """The type and shape of a tensor: -1 for any size, None for any type or any shape.

    A bfloat16 tensor comes and goes as an array of uint16, because NumPy has no such type.
    """

    dtype: Optional[str] = None
    shape: Optional[Sequence[int]] = None


def model(inputs=None, outputs=None):
    """Declares inputs and outputs by name, each a Tensor or (dtype, shape); requests that differ are refused."""

    def declare(function_or_class):
        function_or_class.__millrace__ = (_specs(inputs), _specs(outputs))
        return function_or_class

    return declare


def _specs(tensors):
    return None if tensors is None else {name: checked(name, *described) for name, described in tensors.items()}


def checked(name, dtype=None, shape=None):
    """A Tensor with the type as a name and the shape as a list; TypeError or ValueError for what is none."""
    if not isinstance(name, str) or not name:
        raise TypeError(f"the name of a tensor is a text, not {name!r}")
    if dtype is not None and dtype not in DTYPES:
        import numpy as np
        dtype = np.dtype(dtype).name
        if dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} cannot be {dtype}; there are: {', '.join(DTYPES)}")
    if shape is not None:
        shape = [int(size) for size in shape]
        if any(size < -1 for size in shape):
            raise ValueError(f"tensor {name!r} cannot have the shape {shape}; -1 is any size")
    return Tensor(dtype, shape)
