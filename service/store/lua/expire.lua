-- Fail a job that waited in its queue for longer than it may.
-- KEYS  1-6 keys.lifecycle   7 keys.START_DEADLINES
-- ARGV  1 job id   2 ttl, unless the job has its own   3 tombstone ttl   4 most events kept
--       5 error, JSON   6 data of the failed event   7... fields of the result
-- Returns 1, or 0 if there is nothing to do any more. The keys of its queue are known only here.
local job = try("HMGET", KEYS[1], "status", "start_deadline", "origin", "failure_ttl")
if job.err or (job[1] ~= "queued" and job[1] ~= "scheduled") then
  call("ZREM", KEYS[7], ARGV[1])
  return 0
end
local deadline, queue = tonumber(job[2] or ""), job[3] or ""
if not deadline then
  call("ZREM", KEYS[7], ARGV[1])
  return 0
end
if deadline > NOW then
  call("ZADD", KEYS[7], deadline, ARGV[1])  -- the index was wrong: it is not to be looked at before
  return 0
end
call("HSET", KEYS[1], "status", "failed", "ended_at", rq_now(), "error", ARGV[5])
decided()
call("HDEL", KEYS[1], "start_deadline")  -- else `rq requeue` could not bring it back
try("LREM", queue_key(queue), 1, ARGV[1])
try("ZREM", registry("scheduled", queue), ARGV[1])
try("ZREM", KEYS[7], ARGV[1])
append_to(KEYS[4], 10, unpack(ARGV, 7))
local ttl = ttl_of(job[4], ARGV[2])
try("ZADD", registry("failed", queue), NOW + ttl, ARGV[1])
change(KEYS, ARGV[4], "failed", ARGV[6])
keep_for(KEYS, ttl, ARGV[3])
return 1
