-- Cancel a job that waits, or ask the worker of a running one to stop it.
-- KEYS  1-6 keys.lifecycle   7 queue list   8 scheduled   9 deferred   10 canceled registry   11 keys.START_DEADLINES
-- ARGV  1 job id   2 ttl   3 tombstone ttl   4 most events kept   5 command, JSON   6 data of the canceled event
-- Returns "gone", "canceled", "requested", or "done" if the job was over.
local job = call("HMGET", KEYS[1], "status", "worker_name")
local status = job[1]
if not status then return "gone" end
if status == "started" then
  call("HSETNX", KEYS[1], "cancel_requested_at", rfc3339())
  -- A worker that misses this message sees the field when it renews its lease.
  try("PUBLISH", commands_of(job[2] or ""), ARGV[5])
  return "requested"
end
if status ~= "queued" and status ~= "scheduled" and status ~= "deferred" then return "done" end
call("HSET", KEYS[1], "status", "canceled", "ended_at", rq_now(), "cancel_requested_at", rfc3339(),
  "cancel_acknowledged_at", rfc3339(), "cancel_mode", "dequeued")
decided()
try("LREM", KEYS[7], 0, ARGV[1])
try("ZREM", KEYS[8], ARGV[1])
try("ZREM", KEYS[9], ARGV[1])
try("ZREM", KEYS[11], ARGV[1])
try("ZADD", KEYS[10], NOW, ARGV[1])
change(KEYS, ARGV[4], "canceled", ARGV[6])
keep_for(KEYS, ARGV[2], ARGV[3])
return "canceled"
