-- Cancel a job that waits in a queue, or for its next try, because an operator empties the queue.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 scheduled   9 canceled registry   10 keys.START_DEADLINES
-- ARGV  1 job id   2 id of this request   3 ttl, unless the job has its own   4 tombstone ttl   5 most events kept
--       6 data of the canceled event
-- Returns 1, or 0 if there was nothing to cancel: it has started meanwhile, is over, or is gone. Its place goes in
--         any case: a worker, too, passes over an id there whose job does not wait.
local job = try("HMGET", KEYS[1], "status", "purged_by", "failure_ttl")
local waits = not job.err and (job[1] == "queued" or job[1] == "scheduled")
if waits then
  call("HSET", KEYS[1], "status", "canceled", "ended_at", rq_now(), "cancel_requested_at", rfc3339(),
    "cancel_acknowledged_at", rfc3339(), "cancel_mode", "purged", "purged_by", ARGV[2])
  decided()
end
call("LREM", KEYS[7], 1, ARGV[1])  -- 1: it is near the front, and the list may be long
try("ZREM", KEYS[8], ARGV[1])
if not waits then return job[2] == ARGV[2] and 1 or 0 end  -- 1: this very call was made before
try("ZREM", KEYS[10], ARGV[1])
try("ZADD", KEYS[9], NOW, ARGV[1])
change(KEYS, ARGV[5], "canceled", ARGV[6])
keep_for(KEYS, ttl_of(job[3], ARGV[3]), ARGV[4])
return 1
