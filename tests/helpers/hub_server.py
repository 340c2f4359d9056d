"""A small Hugging Face Hub on loopback: repositories in memory, and a note of every request."""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Attributes: `repositories` (name to {revision: {file: bytes}}), `requests`, `tokens`."""

    def __init__(self):
        self.repositories, self.requests, self.tokens = {}, [], []

    def add(self, repository, folder, revision="main"):
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
        self.repositories.setdefault(repository, {})[revision] = files


@contextmanager
def hub_on_loopback(monkeypatch):
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, body=b"", headers=()):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_one(self):
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            hub.tokens.append(self.headers.get("Authorization"))
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if path == "/api/repos/create":
                wanted = json.loads(sent)
                name = f"{wanted['organization'] or 'someone'}/{wanted['name']}"
                hub.repositories.setdefault(name, {})
                return self.answer(200, {"url": f"{address}/{name}"})
            if path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            for name, revisions in hub.repositories.items():
                if path.startswith(f"/{name}/resolve/"):
                    revision, _, file = path.removeprefix(f"/{name}/resolve/").partition("/")
                    content = revisions.get(revision, {}).get(file)
                    if content is None:
                        return self.answer(404, headers={"X-Error-Code": "EntryNotFound"})
                    tag = hashlib.sha1(content).hexdigest()
                    headers = {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
                    return self.answer(200, content, headers)
                if path.startswith(f"/api/models/{name}/preupload/"):
                    files = [
                        {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for file in json.loads(sent)["files"]
                    ]
                    return self.answer(200, {"files": files})
                if path.startswith(f"/api/models/{name}/commit/"):
                    lines = [json.loads(line) for line in sent.splitlines()]
                    revisions[path.rpartition("/")[2]] = {
                        line["value"]["path"]: base64.b64decode(line["value"]["content"])
                        for line in lines
                        if line["key"] == "file"
                    }
                    url = f"{address}/{name}/commit/{COMMIT}"
                    return self.answer(
                        200, {"success": True, "commitUrl": url, "commitOid": COMMIT}
                    )
            return self.answer(404, headers={"X-Error-Code": "RepoNotFound"})

        do_GET = do_HEAD = do_POST = handle_one  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(
        huggingface_hub.constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
