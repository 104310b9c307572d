"""A small hub on 127.0.0.1 for the real client: models, datasets, ranges, redirects and failures."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


@dataclass
class Repo:
    """Files by path; those in `large` are LFS files, as the hub decides by their suffix."""

    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    gated: bool = False
    revision: str = "main"
    private: bool = False

    @property
    def sha(self) -> str:
        digest = hashlib.sha1(self.revision.encode())
        for path, data in sorted(self.files.items()):
            digest.update(path.encode() + data)
        return digest.hexdigest()

    def describe(self, path: str) -> dict[str, Any]:
        data = self.files[path]
        found: dict[str, Any] = {"size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
        if path.endswith((".safetensors", ".parquet")):
            found["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 130}
        return found


class Hub(ThreadingHTTPServer):
    """`repos` are keyed by `models/NAME` or `datasets/NAME`; `asked` lists file requests as (path, range, token)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, list[Repo]] = {}
        self.plain: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []
        self.cut: dict[str, int] = {}
        """Break every connection at this byte of the file."""
        self.cut_once: dict[str, int] = {}
        self.status: dict[str, int] = {}
        """Repositories that respond only with this status."""
        self.spoil: set[str] = set()
        """Files that are sent with a wrong last byte."""
        self.sent: list[tuple[str, str]] = []
        """Requests that change something, as (path, token)."""
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that close the connection are expected."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/(models|datasets)/(.+?)(/auth-check|/tree/[^/]+|/revision/(.+))?", path):
            kind, name, rest = match[1], match[2], match[3] or ""
            repo = self.repo(f"{kind}/{name}", match[4])
            if repo is None:
                return
            if rest == "/auth-check":
                return self.refuse(403, "GatedRepo") if repo.gated else self.say({})
            if rest.startswith("/tree"):
                return self.say(
                    [{"type": "file", "path": p, "oid": "0" * 40} | self.entry(repo, p) for p in repo.files]
                )
            siblings = [{"rfilename": p} | repo.describe(p) for p in repo.files]
            about = {"id": name, "sha": repo.sha, "siblings": siblings, "cardData": repo.card}
            return self.say(about | {"gated": "manual" if repo.gated else False, "private": repo.private, "tags": []})
        if match := re.fullmatch(r"(/cdn)?/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            repo = self.repo(f"{(match[2] or 'models/')}{match[3]}", match[4])
            if repo is None:
                return None
            if repo.gated:
                return self.refuse(403, "GatedRepo")
            return self.give(match[5], repo.files[match[5]], repo, cdn=bool(match[1]))
        if path in self.server.plain:
            return self.give(path, self.server.plain[path])
        return self.refuse(404, "")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, repos = unquote(urlsplit(self.path).path), self.server.repos
        self.server.sent.append((path, self.headers.get("Authorization", "")))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            repos.setdefault(f"models/{name}", [Repo({}, private=bool(private))])
            return self.say({"url": f"{self.server.url}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.say({"errors": [], "warnings": []})
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            return self.say({"files": [file | {"shouldIgnore": False, "oid": None} for file in files]})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    repos[f"models/{match[1]}"][0].files[line["value"]["path"]] = content
            return self.say({"commitUrl": f"{self.server.url}/{match[1]}/commit/{'0' * 40}", "commitOid": "0" * 40})
        return self.refuse(404, "")

    def entry(self, repo: Repo, path: str) -> dict[str, Any]:
        found = repo.describe(path)
        lfs = found.get("lfs")
        extra = {"lfs": {"oid": lfs["sha256"], "size": lfs["size"], "pointerSize": 130}} if lfs else {}
        return {"size": found["size"], "oid": found["blobId"]} | extra

    def repo(self, key: str, revision: str | None) -> Repo | None:
        if key in self.server.status:
            self.refuse(self.server.status[key], "")
            return None
        versions = self.server.repos.get(key, [])
        for repo in versions:
            if revision in (None, repo.revision, repo.sha):
                return repo
        self.refuse(404, "RevisionNotFound" if versions else "RepoNotFound")
        return None

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def say(self, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def give(self, name: str, data: bytes, repo: Repo | None = None, cdn: bool = False) -> None:
        hub, head = self.server, self.command == "HEAD"
        if repo and not cdn and "lfs" in (about := repo.describe(name)):
            # As on the hub, large files are on another host, which must not receive the token.
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{hub.server_port}/cdn{self.path}")
            self.send_header("X-Repo-Commit", repo.sha)
            self.send_header("X-Linked-Size", str(len(data)))
            self.send_header("X-Linked-Etag", f'"{about["lfs"]["sha256"]}"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not head:
            hub.asked.append((name, self.headers.get("Range", ""), self.headers.get("Authorization", "")))
        if name in hub.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))) else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        if repo:
            self.send_header("ETag", f'"{repo.describe(name)["blobId"]}"')
            self.send_header("X-Repo-Commit", repo.sha)
        self.end_headers()
        if head:
            return
        end = hub.cut.get(name, hub.cut_once.pop(name, len(data)))
        self.wfile.write(data[start:end])
        if end < len(data):
            self.wfile.flush()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
