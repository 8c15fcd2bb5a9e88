-- Cancel a job that waits, or ask the worker of a running one to stop it.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 scheduled   9 deferred   10 canceled registry   11 keys.START_DEADLINES
-- ARGV  1 job id   2 now, unix   3 now, RQ's format   4 now, RFC 3339   5 ttl   6 tombstone ttl   7 most events kept
--       8 prefix of command channels   9 command, JSON   10 data of the canceled event
-- Returns "gone", "canceled", "requested", or "done" if the job was over.
local status = redis.call("HGET", KEYS[1], "status")
if not status then return "gone" end
if status == "started" then
  redis.call("HSETNX", KEYS[1], "cancel_requested_at", ARGV[4])
  -- A worker that misses this message sees the field when it renews its lease.
  redis.call("PUBLISH", ARGV[8] .. (redis.call("HGET", KEYS[1], "worker_name") or ""), ARGV[9])
  return "requested"
end
if status ~= "queued" and status ~= "scheduled" and status ~= "deferred" then return "done" end
redis.call("LREM", KEYS[7], 0, ARGV[1])
redis.call("ZREM", KEYS[8], ARGV[1])
redis.call("ZREM", KEYS[9], ARGV[1])
redis.call("ZREM", KEYS[11], ARGV[1])
redis.call("HSET", KEYS[1], "status", "canceled", "ended_at", ARGV[3], "cancel_requested_at", ARGV[4],
  "cancel_acknowledged_at", ARGV[4], "cancel_mode", "dequeued")
redis.call("ZADD", KEYS[10], ARGV[2], ARGV[1])
change(KEYS, ARGV[7], "canceled", ARGV[10])
keep_for(KEYS, ARGV[5], ARGV[6])
return "canceled"
