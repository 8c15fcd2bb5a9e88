"""One sentence a job, one job at a time."""

from embedding import embedder

from service import model


@model
class Embed:
    """Embed a sentence."""

    def setup(self) -> None:
        self._embedder = embedder()

    def predict(self, text: str) -> list[float]:
        return self._embedder.one(text)
