"""usage: quickstart_table.py HOST:PORT CLI FOLDER

Sends the image in FOLDER to the server in each of the ways there are, several times, with CLI (the millrace
command) and curl.  Prints a line for each way, and fails if an answer is wrong.
"""
import re
import struct
import subprocess
import sys

TIMES = 9
TOLERANCE = 1e-6


def run(*command):
    done = subprocess.run(command, capture_output=True, timeout=120)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}\n{done.stderr.decode()}")
    return done.stdout, done.stderr.decode()


def predict(cli, address, file, *flags):
    """Milliseconds and the answer, of `millrace predict`, which prints

    std: float32[] 0.2886751
    9 requests of 30 MB: median 6.12 ms (4.90 GB/s), ...
    """
    out, _ = run(cli, "predict", "--url", address, "--model", "row_mean_std", "--repeat", str(TIMES), *flags, file)
    answer = re.search(r"^std: \S+ (\S+)$", out.decode(), re.MULTILINE)
    milliseconds = re.search(r"median ([0-9.]+) ms", out.decode())
    return float(milliseconds.group(1)), float(answer.group(1))


def curl(address, file):
    """Milliseconds and the answer, of a plain POST of the bare values."""
    command = ["curl", "-sS", "-f", "-H", "Expect:", "-H", "Content-Type: application/octet-stream",
               "--data-binary", f"@{file}", "-o", "-", "-w", "%{stderr}%{time_total}", f"http://{address}/predict"]
    results = []
    for _ in range(TIMES):
        out, err = run(*command)
        results.append((float(err) * 1e3, struct.unpack("<f", out)[0]))
    return sorted(results)[TIMES // 2]


def measure(address, cli, folder):
    """Yields a way, the bytes it sent, milliseconds, the answer, and the right one."""
    image, npy, one = (f"{folder}/{name}" for name in ("image.f32", "image.npy", "one.f32"))
    yield "gRPC, streamed in chunks", 30_000_000, *predict(cli, address, npy), 0.2886751
    yield "gRPC, one message", 30_000_000, *predict(cli, address, npy, "--unary"), 0.2886751
    yield "HTTP POST, curl", 30_000_000, *curl(address, image), 0.2886751
    yield "HTTP POST, curl, one value for all", 4, *curl(address, one), 0.0


def main(address, cli, folder):
    wrong = 0
    print(f"{'way':<36}{'bytes':>12}{'ms':>9}{'GB/s':>8}  answer")
    for way, size, milliseconds, answer, expected in measure(address, cli, folder):
        right = abs(answer - expected) <= TOLERANCE
        wrong += not right
        verdict = "" if right else f"  wrong, expected {expected}"
        print(f"{way:<36}{size:>12,}{milliseconds:>9.2f}{size / milliseconds / 1e6:>8.2f}  {answer:.7f}{verdict}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
