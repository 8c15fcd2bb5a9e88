from __future__ import annotations

import pytest

from service.model import InvalidModel, Options
from service.store.job import Job
from service.store.outcomes import Failed
from service.store.retry_policy import LONGEST_BACKOFF, RetryPolicy, retry_policy_of

FAILED = Failed("model_error", "no luck", exceptions=("jobs.a.TooLong", "ValueError", "Exception"))


def kept(policy: RetryPolicy) -> RetryPolicy:
    return retry_policy_of(Job("1", {"retry_policy": policy.to_json()}, b"", {}))


def test_a_number_is_doubled_each_time_with_jitter_up_to_a_limit() -> None:
    policy = RetryPolicy(backoff=2)

    for tries, longest in [(1, 2.0), (2, 4.0), (5, 32.0), (60, LONGEST_BACKOFF)]:
        delays = [policy.delay(FAILED, tries) for _ in range(200)]
        assert longest / 2 <= min(delays) < max(delays) <= longest


def test_a_list_is_taken_as_it_is_and_its_last_goes_on() -> None:
    policy = kept(RetryPolicy(backoff=(1, 10, 60)))

    assert [policy.delay(FAILED, tries) for tries in (1, 2, 3, 4, 50)] == [1, 10, 60, 60, 60]


def test_what_the_model_said_goes_before_the_policy() -> None:
    assert RetryPolicy(backoff=60).delay(Failed("model_error", "", after=0), 1) == 0


@pytest.mark.parametrize("name", ["TooLong", "jobs.a.TooLong", "ValueError", "Exception"])
def test_a_fatal_exception_is_known_by_its_name_or_that_of_a_base_class(name: str) -> None:
    assert not kept(RetryPolicy(fatal=("KeyError", name))).allows(FAILED, 0)


@pytest.mark.parametrize("name", ["KeyError", "Long", "a.TooLong", "jobs.a"])
def test_other_names_are_not_fatal(name: str) -> None:
    assert kept(RetryPolicy(fatal=(name,))).allows(FAILED, 0)


def test_crashes_are_limited_and_other_failures_are_not() -> None:
    policy = kept(RetryPolicy(max_crashes=1))

    assert [policy.allows(Failed("crashed", ""), crashes) for crashes in (0, 1)] == [True, False]
    assert [policy.allows(Failed("lost", ""), crashes) for crashes in (0, 1)] == [True, False]
    assert policy.allows(FAILED, 7)


def test_the_default_takes_no_room_and_what_cannot_be_read_is_the_default() -> None:
    assert RetryPolicy().to_json() == ""
    assert retry_policy_of(Job("1", {"retry_policy": '{"backoff'}, b"", {})) == RetryPolicy()
    assert retry_policy_of(Job("1", {"retry_policy": "[1]"}, b"", {})) == RetryPolicy()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backoff": -1}, "backoff is -1: expected seconds from 0"),
        ({"backoff": []}, r"backoff is \[\]: expected from 1 to 100 numbers"),
        ({"backoff": [1, "2"]}, "backoff is '2'"),
        ({"fatal": "ValueError"}, "fatal is 'ValueError': expected an exception class"),
        ({"fatal": (ValueError, 1)}, "fatal is .*: expected an exception class"),
        ({"max_crashes": -1}, "max_crashes is -1"),
        ({"max_queued": 0}, "max_queued is 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidModel, match=said):
        Options(**options)  # type: ignore[arg-type]
