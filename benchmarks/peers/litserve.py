"""LitServe: a model server that keeps requests in memory only. `python -m peers.litserve PORT` serves."""

from __future__ import annotations

import sys
from typing import Any

import litserve
from embedding import embedder


class Embed(litserve.LitAPI):
    def setup(self, device: Any) -> None:
        self._embedder = embedder()

    def decode_request(self, request) -> str:  # without a type, which LitServe would hand to FastAPI
        return request["text"]

    def predict(self, texts: list[str]) -> list[list[float]]:
        return self._embedder.many(texts)

    def encode_response(self, output: list[float]) -> dict[str, Any]:
        return {"output": output}


if __name__ == "__main__":
    server = litserve.LitServer(Embed(max_batch_size=32, batch_timeout=0.02), accelerator="cpu", timeout=60)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
