"""Signatures of webhooks, seen by an implementation of Standard Webhooks that is not ours."""

from __future__ import annotations

import time
from base64 import b64encode

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service.settings import InvalidSettings, Settings
from service.webhooks.signature import headers, new_secret, parse_secret

BODY = '{"type":"job.finished","text":"größe"}'


def signed(*secrets: str, timestamp: int | None = None) -> dict[str, str]:
    moment = int(time.time()) if timestamp is None else timestamp
    return headers([parse_secret(each) for each in secrets], "msg_1", moment, BODY.encode())


def test_a_receiver_that_knows_the_secret_accepts_the_signature() -> None:
    secret = new_secret()

    assert Webhook(secret).verify(BODY, signed(secret)) == {"type": "job.finished", "text": "größe"}


def test_while_a_secret_is_changed_receivers_of_the_old_and_of_the_new_one_accept_it() -> None:
    old, new = new_secret(), new_secret()
    told = signed(new, old)

    assert len(told["webhook-signature"].split(" ")) == 2
    for secret in (old, new):
        Webhook(secret).verify(BODY, told)


@pytest.mark.parametrize("changed", ["secret", "id", "timestamp", "body"])
def test_a_signature_is_good_for_one_secret_id_time_and_body_only(changed: str) -> None:
    secret = new_secret()
    told = signed(secret)
    receiver = Webhook(new_secret() if changed == "secret" else secret)
    if changed == "id":
        told["webhook-id"] = "msg_2"
    if changed == "timestamp":
        told["webhook-timestamp"] = str(int(told["webhook-timestamp"]) + 1)

    with pytest.raises(WebhookVerificationError):
        receiver.verify(BODY + " " if changed == "body" else BODY, told)


def test_a_signature_is_the_one_of_the_specification() -> None:
    # The example of the specification's reference implementations.
    key = parse_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    told = headers([key], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert told == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_without_a_secret_nothing_is_signed() -> None:
    assert signed(timestamp=7) == {"webhook-id": "msg_1", "webhook-timestamp": "7"}


def test_a_new_secret_is_another_one_each_time_and_can_be_read() -> None:
    secrets = {new_secret() for _ in range(10)}

    assert len(secrets) == 10
    assert {len(parse_secret(each)) for each in secrets} == {32}


@pytest.mark.parametrize("size", [24, 64])
def test_a_secret_has_from_24_to_64_bytes(size: int) -> None:
    assert parse_secret("whsec_" + b64encode(b"k" * size).decode()) == b"k" * size


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_",
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + b64encode(b"k" * 23).decode(),
        "whsec_" + b64encode(b"k" * 65).decode(),
        "whsec_" + b64encode(b"k" * 32).decode()[:-1],
        "whsec_" + b64encode(b"k" * 32).decode() + "\n",
        "whsec_" + "ä" * 32,
    ],
)
def test_a_wrong_secret_is_told_at_start_without_repeating_it(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes"):
        parse_secret(text)

    if text.strip() == text and text:
        monkeypatch.setenv("WEBHOOK_SECRET", f"{new_secret()} {text}")
        with pytest.raises(InvalidSettings, match="^WEBHOOK_SECRET is wrong: a secret should be") as told:
            Settings()
        assert len(str(told.value)) < 100


def test_secrets_are_separated_by_spaces_and_not_shown_with_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = new_secret(), new_secret()
    monkeypatch.setenv("WEBHOOK_SECRET", f"{new} {old}")

    assert Settings().webhook_secret == (new, old)
    assert new not in repr(Settings())
