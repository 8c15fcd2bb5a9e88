-- Cancel a job that waits in a queue, or for its next try, because an operator empties the queue.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 scheduled   9 canceled registry   10 keys.START_DEADLINES
-- ARGV  1 job id   2 now, unix   3 now, RQ's format   4 now, RFC 3339   5 ttl, unless the job has its own
--       6 tombstone ttl   7 most events kept   8 data of the canceled event
-- Returns 1, or 0 if there was nothing to cancel: it has started meanwhile, is over, or is gone. Its place goes in
--         any case: a worker, too, passes over an id there whose job does not wait.
redis.call("LREM", KEYS[7], 1, ARGV[1])  -- 1: it is near the front, and the list may be long
redis.call("ZREM", KEYS[8], ARGV[1])
local job = redis.call("HMGET", KEYS[1], "status", "cancel_mode", "cancel_requested_at", "failure_ttl")
if job[1] == "canceled" and job[2] == "purged" and job[3] == ARGV[4] then return 1 end  -- this very call was made before
if job[1] ~= "queued" and job[1] ~= "scheduled" then return 0 end
redis.call("ZREM", KEYS[10], ARGV[1])
redis.call("HSET", KEYS[1], "status", "canceled", "ended_at", ARGV[3], "cancel_requested_at", ARGV[4],
  "cancel_acknowledged_at", ARGV[4], "cancel_mode", "purged")
redis.call("ZADD", KEYS[9], ARGV[2], ARGV[1])
change(KEYS, ARGV[7], "canceled", ARGV[8])
local ttl = tonumber(job[4] or "") or 0
keep_for(KEYS, ttl > 0 and ttl or tonumber(ARGV[5]), ARGV[6])
return 1
