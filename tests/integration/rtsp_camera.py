"""A camera of a few lines: serves one H.264 file over RTSP, inside its TCP connection, at its pace."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av

_SDP = "\r\n".join(
    (
        "v=0",
        "o=- 0 0 IN IP4 127.0.0.1",
        "s=camera",
        "c=IN IP4 0.0.0.0",
        "t=0 0",
        "m=video 0 RTP/AVP 96",
        "a=rtpmap:96 H264/90000",
        "a=fmtp:96 packetization-mode=1",
        "a=control:track0",
        "",
    )
)


class _Packets:
    """Takes what the RTP muxer writes: one packet a write."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, data: bytes) -> int:
        # RTP goes on channel 0, the muxer's RTCP reports (payload types 200 and up) on channel 1.
        channel = 1 if 200 <= data[1] <= 204 else 0
        self._connection.sendall(b"$" + bytes([channel]) + len(data).to_bytes(2, "big") + data)
        return len(data)


def _converse(connection: socket.socket) -> None:
    """Answer requests until PLAY."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            received += connection.recv(4096)
        head, received = received.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        method = lines[0].split()[0]
        sequence = next(line.split(":")[1].strip() for line in lines if line.lower().startswith("cseq"))
        reply = ["RTSP/1.0 200 OK", f"CSeq: {sequence}", "Session: 1"]
        body = ""
        if method == "OPTIONS":
            reply.append("Public: DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif method == "DESCRIBE":
            body = _SDP
            reply += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        elif method == "SETUP":
            reply.append("Transport: RTP/AVP/TCP;unicast;interleaved=0-1")
        connection.sendall(("\r\n".join(reply) + "\r\n\r\n" + body).encode())
        if method == "PLAY":
            return


def _serve(listener: socket.socket, path: Path) -> None:
    with contextlib.suppress(OSError, av.error.FFmpegError), listener, listener.accept()[0] as connection:
        _converse(connection)
        with av.open(str(path)) as file, av.open(_Packets(connection), "w", format="rtp") as out:
            video = file.streams.video[0]
            stream = out.add_stream_from_template(video)
            began = time.monotonic()
            for packet in file.demux(video):
                if packet.dts is not None:
                    due = float(packet.dts * packet.time_base)
                    time.sleep(max(0.0, began + due - time.monotonic()))
                    packet.stream = stream
                    out.mux(packet)


@contextlib.contextmanager
def camera(path: Path) -> Iterator[str]:
    """The address of a camera that shows `path` once, to one viewer, and then hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=_serve, args=(listener, path), daemon=True)
    thread.start()
    try:
        yield f"rtsp://127.0.0.1:{listener.getsockname()[1]}/live"
    finally:
        listener.close()
        thread.join(timeout=5)
