"""A model behind HTTP: requests that wait share compiled batches, and nothing is compiled once it is warm.

`make_app` is the ASGI application, `run_server` runs it as the command `encdec-eqx serve` does.
"""

from .http_app import make_app as make_app
from .running import open_listener as open_listener
from .running import run_server as run_server
from .server_settings import ServerSettings as ServerSettings
