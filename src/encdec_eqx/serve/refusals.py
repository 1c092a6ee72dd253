"""What a server answers instead of a result: one kind of object, and the status that goes with it."""

from typing import Any


class RefusalError(Exception):
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


def too_large(message: str) -> RefusalError:
    """Larger than the server's limits."""
    return RefusalError(413, message)


def queue_full(waiting: int, seconds: int) -> RefusalError:
    """Too many wait."""
    return RefusalError(
        429,
        f"the queue is full: {waiting} sources wait. Try again in {seconds} s.",
        kind="QueueFull",
        headers={"Retry-After": str(seconds)},
    )


def not_now(why: str) -> RefusalError:
    """The server is not warm yet, or shutting down."""
    return RefusalError(503, why, kind="Unavailable", headers={"Retry-After": "5"})


def timed_out(seconds: float) -> RefusalError:
    """Took longer than a request may."""
    return RefusalError(
        504,
        f"the request took longer than {seconds:g} s and was given up. Ask for fewer tokens or sources, or start the "
        "server with a larger --timeout.",
        kind="TimeoutError",
    )


def of_error(error: Exception) -> RefusalError:
    """What an error of the library or the server says."""
    if isinstance(error, RefusalError):
        return error
    if isinstance(error, TypeError | ValueError | NotImplementedError):
        return RefusalError(400, str(error), kind=type(error).__name__)
    return RefusalError(500, "the server failed on this request; its log says more.", kind="InternalError")
