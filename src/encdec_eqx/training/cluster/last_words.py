"""A script of a few lines, run beside a process: says a text if that ends without a word and process 0 is gone too.

jax aborts a process whose coordinator is lost, from a thread of its own and in the same moment; nothing of ours runs
in it any more. Waits for the end of its standard input: `HOST PORT TEXT`.
"""

import contextlib
import os
import signal
import socket
import sys

NOTHING = b"nothing\n"


def main(host: str, port: str, text: str) -> None:
    """Waits for the process that started this one to end, or to send `NOTHING`."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the process that this one watches
    said = b""
    while read := os.read(0, 64):
        said += read
    if said == NOTHING:
        return
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=5):
        return  # process 0 is well: its companion was killed, which process 0 tells
    os.write(2, f"\n{text}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
