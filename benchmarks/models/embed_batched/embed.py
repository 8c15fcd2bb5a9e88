"""One sentence a job, up to 32 jobs at a time."""

from embedding import embedder

from service import model


@model(max_batch_size=32, batch_timeout=0.02)
class Embed:
    """Embed a sentence."""

    def setup(self) -> None:
        self._embedder = embedder()

    def predict(self, text: list[str]) -> list[list[float]]:
        return self._embedder.many(text)
