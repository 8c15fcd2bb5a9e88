-- Renew the lease of a running execution.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash   9 executions   10 worker_executions
-- ARGV  1 member   2 execution id   3 now, unix   4 now, RQ's format   5 lease, seconds
-- Returns 0 if the execution is no longer the job's, 2 if the job is asked to stop, else 1.
if not holds(KEYS[7], ARGV[1], "") then return 0 end
redis.call("ZADD", KEYS[7], ARGV[3] + ARGV[5], ARGV[1])
redis.call("HSET", KEYS[8], "last_heartbeat", ARGV[3])
redis.call("EXPIRE", KEYS[8], ARGV[5] * 2)
redis.call("ZADD", KEYS[9], ARGV[3] + ARGV[5] + 60, ARGV[2])
redis.call("EXPIRE", KEYS[9], ARGV[5] + 60)
redis.call("EXPIRE", KEYS[10], ARGV[5] * 4)
redis.call("HSET", KEYS[1], "last_heartbeat", ARGV[4])
return redis.call("HEXISTS", KEYS[1], "cancel_requested_at") == 1 and 2 or 1
