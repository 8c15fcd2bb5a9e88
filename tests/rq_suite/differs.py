"""The tests of RQ's own suite that differ on WarmWorker, and why: checked both ways by `python -m tests.rq_suite`."""

IN_A_HORSE = "a mock that the test reads afterwards: SimpleWorker runs jobs in the test's own process, ours in a horse"
NEVER_BLOCKS = (
    "415 s, for RQ's blocking commands, as the timeout of the caller's own connections: ours does not need it"
)
PRIVATE_FLAG = "_stop_requested, which RQ leaves as it is in a worker that is idle"
COUNTS_HEARTBEATS = "that a worker in burst mode sends three heartbeats: ours sends one, since its turns tell the same"
STARTED_AT_ONCE = "with perform_job replaced, a job stays queued: ours is started in the step that takes it"

DIFFERS: dict[str, str] = {
    "test_worker::TestWorker::test_heartbeat_survives_lost_connection": COUNTS_HEARTBEATS,
    "test_worker::TestWorker::test_heartbeat_survives_redis_timeout": COUNTS_HEARTBEATS,
    "test_worker::TestWorker::test_work_via_simpleworker": "jobs run in the process of the worker: ours has a horse",
    "test_worker::TestWorker::test_worker_configures_socket_timeout": NEVER_BLOCKS,
    "test_worker::TestWorker::test_worker_ttl_param_resolves_timeout": NEVER_BLOCKS,
    "test_worker::WorkerShutdownTestCase::test_idle_worker_warm_shutdown": PRIVATE_FLAG,
    "test_worker::WorkerShutdownTestCase::test_work_horse_force_death": "a horse for a job without an execution",
    "test_intermediate_queue::TestIntermediateQueue::test_no_cleanup_while_in_started_queue": STARTED_AT_ONCE,
    "test_rate_limit::TestRateLimitEnqueue::test_release_after_aborted_immediate_repeat": IN_A_HORSE,
    "test_repeat::TestWorkerRepeat::test_repeat_state_survives_transaction_retry": IN_A_HORSE,
    "test_webhooks::WorkerWebhookTestCase::test_retry_exhausted_fires_failed_once": IN_A_HORSE,
    "test_webhooks::WorkerWebhookTestCase::test_retry_then_success_skips_failed": IN_A_HORSE,
    "test_webhooks::WorkerWebhookTestCase::test_return_based_retry_exhaustion_fires_failed": IN_A_HORSE,
    "test_webhooks::WorkerWebhookTestCase::test_terminal_status_fires_only_matching_webhook": IN_A_HORSE,
}
