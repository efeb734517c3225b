"""A hub on this machine, and small networks that transformers wrote."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch


@pytest.fixture
def rewrite():
    """Changes the `config.json` of a folder; None takes a key out."""

    def change(folder, **changes):
        record = {**json.loads((folder / "config.json").read_bytes()), **changes}
        record = {key: value for key, value in record.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(record))

    return change


@pytest.fixture(scope="session")
def quiet_transformers():
    transformers = pytest.importorskip("transformers", exc_type=ImportError)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


@pytest.fixture
def vit(tmp_path, quiet_transformers):
    """A folder with a vision transformer as transformers writes it, and the network."""
    torch.manual_seed(0)
    config = quiet_transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label={0: "ant", 1: "bee", 2: "cat", 3: "dog", 4: "emu"},
        label2id={"ant": 0, "bee": 1, "cat": 2, "dog": 3, "emu": 4},
    )
    network = quiet_transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "vit")
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "size": 32}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "vit", network


def _tree(folder):
    return [
        {"type": "file", "path": str(path.relative_to(folder)), "size": path.stat().st_size, "oid": "0"}
        for path in folder.rglob("*")
        if path.is_file()
    ]


class _Hub(BaseHTTPRequestHandler):
    """As much of the hub as fetching a repository takes."""

    commit = "a" * 40

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def log_message(self, *_):
        pass

    def _answer(self, body):
        self.server.asked.append(self.path)
        for name, folder in self.server.repositories.items():
            if self.path.startswith(f"/api/models/{name}/"):
                told = _tree(folder) if "/tree/" in self.path else {"id": name, "sha": self.commit}
                self._send(json.dumps(told).encode(), body)
                return
            if self.path.startswith(f"/{name}/resolve/{self.commit}/"):
                self._send((folder / self.path.partition(f"{self.commit}/")[2]).read_bytes(), body)
                return
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", self.commit)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hugging Face hub on this machine: `repositories` are folders by name, `asked` the paths asked for."""
    constants = pytest.importorskip("huggingface_hub.constants", exc_type=ImportError)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.repositories, server.asked = {}, []
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    template = place + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def _importable(name):
    try:
        return pytest.importorskip(name, exc_type=ImportError)
    except RuntimeError as error:  # as torchvision's CUDA build raises beside a CPU-only torch
        pytest.skip(f"{name} is installed but does not load beside this torch: {error}")


@pytest.fixture(scope="session")
def timm():
    return _importable("timm")


@pytest.fixture(scope="session")
def torchvision_models():
    return _importable("torchvision.models")
