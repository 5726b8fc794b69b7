"""An HTTP/2 client of bare frames (RFC 9113), for what a decent one never sends."""

import re
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
ACK = END_STREAM = 0x1
END_HEADERS = 0x4

# A header table of no size, so that statuses come as plain text and no HPACK state is needed here.
NO_TABLE = struct.pack(">HI", 1, 0)

INITIAL_WINDOW_SIZE = 4

CANCEL = 8


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def _string(text):
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest = len(text) - 127
    out = b"\x7f"
    while rest >= 128:
        out += bytes([rest % 128 + 128])
        rest //= 128
    return out + bytes([rest]) + text


def field(name, value):
    """HPACK: a literal that is never indexed."""
    return b"\x10" + _string(name) + _string(value)


def request(path, *metadata):
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"),
              (b"te", b"trailers"), (b"content-type", b"application/grpc"), *metadata]
    return b"".join(field(*f) for f in fields)


def message(data, compressed=0):
    return struct.pack(">BI", compressed, len(data)) + data


class Connection:
    """One connection.  What came is read only in read_until()."""

    def __init__(self, server, acknowledge=True, timeout=20):
        self._socket = server.socket(timeout)
        self._acknowledge = acknowledge
        self._received = b""
        self._next_stream = 1
        self.closed = False
        self.stalled = False  # the server takes no more bytes, for the timeout at least
        self.statuses = {}  # of streams that have ended: the gRPC status, or "reset"
        self.send(PREFACE + frame(SETTINGS, 0, 0, NO_TABLE))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, data):
        try:
            self._socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            self.closed = True
        except TimeoutError:
            self.stalled = True

    def call(self, path, *messages, metadata=(), end=False):
        """Opens a stream; returns its number."""
        stream = self._next_stream
        self._next_stream += 2
        out = self._headers(stream, request(path, *metadata))
        body = b"".join(messages)
        if body or end:
            out += frame(DATA, END_STREAM if end else 0, stream, body)
        self.send(out)
        return stream

    def _headers(self, stream, block):
        first, rest = block[:16384], block[16384:]
        out = frame(HEADERS, 0 if rest else END_HEADERS, stream, first)
        while rest:
            first, rest = rest[:16384], rest[16384:]
            out += frame(CONTINUATION, 0 if rest else END_HEADERS, stream, first)
        return out

    def reset(self, stream):
        self.send(frame(RST_STREAM, 0, stream, struct.pack(">I", CANCEL)))

    def read_until(self, done):
        """Reads frames until `done()` or the end of the connection; TimeoutError after 20 s of silence."""
        while not done() and not self.closed and not self.stalled:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            self.closed = not data
            self._received += data
            self._take_frames()

    def _take_frames(self):
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self._received[3:9])
            payload, self._received = self._received[9:9 + size], self._received[9 + size:]
            self._take(kind, flags, stream, payload)

    def _take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK and self._acknowledge:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK and self._acknowledge:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == HEADERS and flags & END_STREAM:
            found = re.search(rb"grpc-status[\x01\x02](\d+)", payload)
            self.statuses[stream] = int(found.group(1)) if found else payload
        elif kind == RST_STREAM:
            self.statuses.setdefault(stream, "reset")
