"""What a server answers instead of a result: one kind of object, and the status that goes with it."""

from typing import Any


class Refusal(Exception):
    """A request that is not answered with a result.

    Attributes:
        status: of HTTP.
        kind: `error.type` of the answer.
        headers: that go with it.
    """

    def __init__(self, status: int, message: str, *, kind: str = "ValueError", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.kind, self.headers = status, kind, headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"type": self.kind, "message": str(self)}}


def too_large(message: str) -> Refusal:
    """Larger than the server's limits."""
    return Refusal(413, message)


def queue_full(waiting: int, seconds: int) -> Refusal:
    """Too many wait."""
    return Refusal(
        429,
        f"the queue is full: {waiting} sources wait. Try again in {seconds} s.",
        kind="QueueFull",
        headers={"Retry-After": str(seconds)},
    )


def not_now(why: str) -> Refusal:
    """The server is not warm yet, or shutting down."""
    return Refusal(503, why, kind="Unavailable", headers={"Retry-After": "5"})


def timed_out(seconds: float) -> Refusal:
    """Took longer than a request may."""
    return Refusal(
        504,
        f"the request took longer than {seconds:g} s and was given up. Ask for fewer tokens or sources, or start the "
        "server with a larger --timeout.",
        kind="TimeoutError",
    )


def of_error(error: Exception) -> Refusal:
    """What an error of the library or the server says."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, TypeError | ValueError | NotImplementedError):
        return Refusal(400, str(error), kind=type(error).__name__)
    return Refusal(500, "the server failed on this request; its log says more.", kind="InternalError")
