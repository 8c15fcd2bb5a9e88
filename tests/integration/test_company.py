"""Jobs in one work-horse at the same time, or one after another: whose fault its death is, and whose turn is next."""

from __future__ import annotations

from typing import Any

from tests.deployment import Api, until

MODELS = """
    import asyncio, json, os, signal, threading, time
    from service import model, progress

    @model(concurrency=8)
    async def beside(seconds: float = 0) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @model(timeout=30)
    def kills() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    @model
    def leaves_a_thread() -> int:
        def go_on():
            while True:
                time.sleep(0.05)
        threading.Thread(target=go_on).start()
        return os.getpid()

    @model
    def horse() -> int:
        return os.getpid()

    @model
    def patches(what: str) -> None:
        owner, _, name = what.rpartition(".")
        place = json if not owner else getattr(json, owner)
        setattr(place, name, lambda *_, **__: "SECRET")

    @model
    def uses_json() -> list:
        encoded = [json.dumps({"a": [1]}), json.JSONEncoder().encode([2])]
        return [*encoded, json.loads("[1]"), json.JSONDecoder().decode("3")]

    @model
    def zz_long(name: str) -> str:
        time.sleep(0.2)
        return name

    @model
    def a_short(name: str) -> str:
        time.sleep(0.02)
        return name
"""


def starts(service: Api, job: Any) -> int:
    return [event["type"] for event in service.log(job["id"])].count("started")


def test_a_job_that_ends_its_work_horse_is_found_out_and_its_neighbours_are_not_charged(service: Api) -> None:
    service.submit("beside", wait=30)
    neighbours = [service.submit("beside", input={"seconds": 1}) for _ in range(4)]
    for each in neighbours:
        service.started(each["id"])
    guilty = [service.submit("kills") for _ in range(3)]

    for each in guilty:
        assert service.done(each["id"], within=60)["error"]["type"] == "crashed"
        assert starts(service, each) <= 2
    for each in neighbours:
        job = service.done(each["id"], within=60)
        assert (job["status"], len(job["attempts"])) == ("finished", 1), job
        assert starts(service, job) == 2  # it is a victim once, and then comes before others that may be guilty


def test_what_a_job_patches_of_json_is_as_it_was_for_the_next_one(service: Api) -> None:
    right = service.submit("uses_json", wait=30)["output"]
    assert right == ['{"a": [1]}', "[2]", [1], 3]

    for what in ("dumps", "loads", "JSONEncoder.encode", "JSONDecoder.decode", "JSONEncoder"):
        assert service.submit("patches", wait=30, input={"what": what})["status"] == "finished"
        assert service.submit("uses_json", wait=30)["output"] == right, what


def test_no_model_has_its_turn_twice_while_another_waits(service: Api) -> None:
    for model in ("a_short", "zz_long"):
        service.submit(model, wait=30, input={"name": "first"})

    jobs = [service.submit(model, input={"name": model}) for model in 8 * ("zz_long", "a_short")]
    done = [service.done(job["id"], within=60) for job in jobs]

    order = [job["model"] for job in sorted(done, key=lambda job: job["started_at"])]
    waiting = order[: len(order) - order[::-1].index("a_short")]  # until the last short one has begun
    assert not any(one == other == "zz_long" for one, other in zip(waiting[2:], waiting[3:], strict=False)), order


def test_a_thread_that_was_left_is_seen_though_async_jobs_run_all_the_time(service: Api) -> None:
    busy = [service.submit("beside", input={"seconds": 0.5})["id"] for _ in range(500)]  # for half a minute

    first = service.submit("leaves_a_thread", wait=30)["output"]

    until(lambda: service.submit("horse", wait=30)["output"] != first, within=60)
    assert service.job(busy[-1])["status"] == "queued"
