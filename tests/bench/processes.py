"""Servers and clients as processes, and what the kernel knows of them.

Every wait has an end, traffic stays on this machine, and only processes that were started here are ended here.
"""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

NGINX_CONFIG = """daemon off;
pid {folder}/pid;
error_log stderr crit;
worker_processes auto;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  server {{
    listen {address};
    location = /predict {{ default_type application/octet-stream; return 200 "0000"; }}
  }}
}}
"""

GEVENT = "import sys, app; from gevent.pywsgi import WSGIServer; WSGIServer(sys.argv[1], app.app, log=None).serve_forever()"

# How each server is started; {workers} is the number of cores.
SERVERS = {
    "ceiling": "{bin}/bench-ceiling {address}",
    "millrace": "{bin}/millrace-server --log-level warn --bind {address}",
    "millrace-large": "{bin}/millrace-server --log-level warn --bind {address} --memory-limit 9GiB",
    "millrace-dense": "{bin}/millrace-server --log-level warn --bind {address} --model dense",
    "echo": "{bin}/bench-echo {address}",
    "flask-dev": "{python} -m flask --app app run --port {port}",
    "waitress": "{python} -m waitress --listen={address} app:app",
    "gunicorn-1-worker": "{python} -m gunicorn --bind {address} --workers 1 app:app",
    "gunicorn-workers-threads": "{python} -m gunicorn --bind {address} --workers {workers} --threads 4 app:app",
    "gevent": "{python} -c {gevent} {address}",
    "nginx": "{nginx} -p {folder} -c {folder}/nginx.conf",
}

# The Python modules without which a server is not there.
MODULES = {"flask-dev": "flask", "waitress": "waitress", "gunicorn-1-worker": "gunicorn",
           "gunicorn-workers-threads": "gunicorn", "gevent": "gevent"}


class Failed(Exception):
    pass


# ---- what the kernel knows


def tree(pid):
    """The process and all below it."""
    pids = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                pids += tree(int(child))
    return pids


def stat(pid):
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rsplit(")", 1)[1].split()


def cpu_seconds(pid):
    """To the nanosecond, unlike /proc: by the clock that clock_getcpuclockid() names for a process."""
    return sum(time.clock_gettime(~p << 3 | 2) for p in tree(pid))


def minor_faults(pid):
    return sum(int(stat(p)[7]) for p in tree(pid))


def memory(pid, key):
    """VmRSS, VmHWM (its peak): of all processes together, pages that they share counted in each."""
    total = 0
    for p in tree(pid):
        with open(f"/proc/{p}/status", encoding="ascii") as file:
            total += int(re.search(rf"^{key}:\s+(\d+) kB$", file.read(), re.MULTILINE).group(1)) * 1024
    return total


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as info:
        return next(int(line.split()[1]) * 1024 for line in info if line.startswith("MemAvailable"))


# ---- servers


def nginx():
    """Installed, or unpacked by scripts/bench."""
    unpacked = ROOT / "build/bench/nginx/usr/sbin/nginx"
    return shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin") or (unpacked.exists() and str(unpacked))


def why_not(kind, bin_dir):
    """What is missing for a kind of server; None if nothing is."""
    if kind == "nginx":
        return None if nginx() else "nginx is not installed"
    if kind in MODULES:
        done = subprocess.run([sys.executable, "-c", f"import flask, {MODULES[kind]}"], capture_output=True, timeout=60)
        return None if done.returncode == 0 else f"{MODULES[kind]} is not installed"
    program = SERVERS[kind].split()[0].format(bin=bin_dir)
    return None if os.path.exists(program) else f"{program} is not built"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server of a kind, on a free port or a unix socket, from construction until close()."""

    def __init__(self, kind, bin_dir, unix=False):
        self.kind = kind
        self.folder = tempfile.mkdtemp(prefix="millrace-bench-")
        self.port = free_port()
        self.address = f"unix:{self.folder}/socket" if unix else f"127.0.0.1:{self.port}"
        self.log = open(f"{self.folder}/log", "w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen(self._command(bin_dir), stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log, start_new_session=True, cwd=HERE,
                                        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
        try:
            self._wait_until_it_listens()
        except Failed:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        return self.process.pid

    def _command(self, bin_dir):
        values = {"bin": bin_dir, "address": self.address, "port": self.port, "folder": self.folder, "nginx": nginx(),
                  "python": sys.executable, "workers": os.cpu_count(), "gevent": GEVENT}
        if self.kind == "nginx":
            pathlib.Path(self.folder, "nginx.conf").write_text(NGINX_CONFIG.format(**values), encoding="ascii")
        return [word.format(**values) for word in SERVERS[self.kind].split()]

    def _wait_until_it_listens(self):
        for _ in range(2000):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), self._socket() as probe:
                probe.settimeout(1)
                probe.connect(self.address[5:] if self._is_unix() else ("127.0.0.1", self.port))
                return
            time.sleep(0.01)
        self.log.seek(0)
        raise Failed(f"{self.kind} does not listen:\n{self.log.read()[-2000:]}")

    def _is_unix(self):
        return self.address.startswith("unix:")

    def _socket(self):
        return socket.socket(socket.AF_UNIX if self._is_unix() else socket.AF_INET)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)  # the session that was started for it
                self.process.wait(10)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)


# ---- clients


class Client:
    """A client, which has warmed up when the constructor returns, and measures in run()."""

    def __init__(self, command, seconds, env=None):
        self.command = [str(word) for word in command]
        self.process = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
        self._limit = threading.Timer(seconds, self.process.kill)
        self._limit.start()
        if self.process.stdout.readline().strip() != "ready":
            self._fail()

    def _fail(self):
        self.process.stdin.close()
        error = self.process.stderr.read()
        self._end()
        raise Failed(f"{' '.join(self.command)}\nended with status {self.process.returncode}: {error[-2000:]}")

    def _end(self):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(20)
        self._limit.cancel()
        for pipe in (self.process.stdout, self.process.stderr):
            pipe.close()

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.close()

    def report(self):
        line = self.process.stdout.readline()
        if not line or self.process.wait(20) != 0:
            self._fail()
        self._end()
        return json.loads(line)

    def run(self):
        self.go()
        return self.report()


def measure(server, command, seconds=120, env=None):
    """Runs a client against a server: the client's report, and what the server took meanwhile."""
    client = Client(command, seconds, env)
    cpu, faults = cpu_seconds(server.pid), minor_faults(server.pid)
    resident = memory(server.pid, "VmRSS")
    report = client.run()
    return {**report,
            "server_cpu_s": cpu_seconds(server.pid) - cpu,
            "server_faults": minor_faults(server.pid) - faults,
            "server_resident_before": resident,
            "server_resident_after": memory(server.pid, "VmRSS"),
            "server_peak": memory(server.pid, "VmHWM")}
