"""A Hub of our own on the loopback interface: as much of its HTTP interface as a model's upload and download take."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_good"


class Hub:
    """Repositories by name and branch, and the requests that were made.

    Attributes:
        files: of each (repository, branch) the files, by name.
        private: repositories that were made private.
        requests: method and path of each request.
        commits: of each commit its message, branch, and whether it opened a pull request.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []
        self.commits: list[tuple[str, str, bool]] = []
        self.url = ""


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *_: Any) -> None:
        pass

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _asked(self) -> tuple[list[str], dict[str, list[str]], bytes]:
        address = urlsplit(self.path)
        self.hub.requests.append(f"{self.command} {address.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return [unquote(part) for part in address.path.strip("/").split("/")], parse_qs(address.query), body

    def _held(self, owner: str, name: str, branch: str) -> dict[str, bytes]:
        """The files of a branch, or of the one commit that there is."""
        return self.hub.files.get((f"{owner}/{name}", "main" if branch == "0" * 40 else branch), {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts, _, _ = self._asked()
        match parts:
            case ["api", "whoami-v2"]:
                known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
                self._answer(200 if known else 401, {"name": "me"} if known else {"error": "Invalid user token."})
            case ["api", "models", owner, name, "revision", branch]:
                held = self._held(owner, name, branch)
                said = {"id": f"{owner}/{name}", "sha": "0" * 40, "private": False, "tags": [], "downloads": 0}
                self._answer(200, {**said, "siblings": [{"rfilename": file} for file in held]})
            case ["api", "models", owner, name, "tree", branch]:
                held = self._held(owner, name, branch)
                kinds = [
                    {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                    for file, content in held.items()
                ]
                self._answer(200, kinds)
            case [owner, name, "resolve", branch, file]:
                held = self._held(owner, name, branch)
                if file in held:
                    etag = f'"{hashlib.sha1(held[file]).hexdigest()}"'
                    self._answer(200, held[file], ETag=etag, X_Repo_Commit="0" * 40)
                else:
                    self._answer(
                        404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit="0" * 40
                    )
            case _:
                self._answer(404, {"error": "Not found"})

    def do_POST(self) -> None:
        parts, query, body = self._asked()
        match parts:
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                owner = asked.get("organization") or "me"
                name = f"{owner}/{asked['name']}"
                if owner == "others":
                    self._answer(403, {"error": "You don't have the rights to create a model there."})
                    return
                made = (name, "main") not in self.hub.files
                if made:
                    self.hub.files[name, "main"] = {".gitattributes": b""}
                    self.hub.private[name] = asked.get("private") is True or asked.get("visibility") == "private"
                url = f"{self.hub.url}/{name}"
                self._answer(200 if made else 409, {"url": url, "name": name, "error": "You already created it"})
            case ["api", "models", owner, name, "branch", branch]:
                files = self.hub.files.setdefault((f"{owner}/{name}", branch), {})
                files.update(self.hub.files[f"{owner}/{name}", "main"])
                self._answer(200, {})
            case ["api", "validate-yaml"]:
                self._answer(200, {"errors": [], "warnings": []})
            case ["api", "models", _, _, "preupload", _]:
                files = json.loads(body)["files"]
                each = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
                self._answer(200, {"files": each})
            case ["api", "models", owner, name, "commit", branch]:
                self._commit(f"{owner}/{name}", branch, "create_pr" in query, body)
            case _:
                self._answer(404, {"error": "Not found"})

    def _commit(self, name: str, branch: str, create_pr: bool, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        held = {} if create_pr else self.hub.files[name, branch]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append((value["summary"], branch, create_pr))
            elif line["key"] == "file":
                held[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                held.pop(value["path"], None)
        url = f"{self.hub.url}/{name}/commit/{'0' * 40}"
        request = f"{self.hub.url}/{name}/discussions/1" if create_pr else None
        self._answer(200, {"commitUrl": url, "commitOid": "0" * 40, "pullRequestUrl": request})


@contextlib.contextmanager
def running() -> Iterator[Hub]:
    """A Hub while it runs, on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
