"""What NumPy says about the deviation of row means, for row_mean_std_test.

row_mean_std_oracle.py DIR   writes images to DIR, as raw float32, and prints "FILE ROWS COLUMNS STD" for each; STD is
                             computed in float64, where NumPy's own sums are exact enough to be an oracle
"""
import os
import sys

import numpy as np

RNG = np.random.default_rng(1)


def images():
    for shape in [(1, 1), (2, 1), (1, 2), (3, 7), (64, 64), (5, 1000), (1000, 5), (300, 2500), (257, 129)]:
        yield RNG.standard_normal(shape)
        yield RNG.uniform(0, 255, shape)
    for offset in [1e3, 1e6, -1e9, 1e30]:
        yield offset + RNG.standard_normal((200, 333)) * offset / 1e4
    for scale in [1e-40, 1e-20, 1e20, 3e38]:
        yield RNG.uniform(-scale, scale, (50, 70))
    for rows in [4095, 4096, 4097, 10000]:  # around the rows that are summed at once
        yield np.linspace(0, 1, rows)[:, None] + RNG.standard_normal((rows, 3))
    yield np.full((100, 2500), 0.1)
    for bad in [np.nan, np.inf, -np.inf]:
        image = RNG.standard_normal((4097, 40))
        image[4096, 39] = bad
        yield image


def main(folder):
    np.seterr(all="ignore")
    for number, image in enumerate(images()):
        image = image.astype("<f4")
        name = f"row_mean_std_{number}.f32"
        image.tofile(os.path.join(folder, name))
        std = image.astype(np.float64).mean(axis=1).std(axis=0)
        print(name, *image.shape, np.float32(std))


if __name__ == "__main__":
    main(sys.argv[1])
