-- Put a job that a warm worker has taken back at the front of its queue, as if it had never been taken.
-- KEYS  1 job hash   2 queue list   3 intermediate list   4 wip   5 execution hash   6 executions
--       7 worker_executions set
-- ARGV  1 job id   2 execution id, or "" if none was opened yet
-- Returns 1 if it is queued again, 0 if it was not this worker's: ended, given to another, or returned before.
local member = ARGV[1] .. ":" .. ARGV[2]
local held = redis.call("LREM", KEYS[3], 1, ARGV[1]) + redis.call("ZREM", KEYS[4], member)
if ARGV[2] ~= "" then
  redis.call("DEL", KEYS[5])
  redis.call("ZREM", KEYS[6], ARGV[2])
  redis.call("SREM", KEYS[7], member)
end
local status = redis.call("HGET", KEYS[1], "status") or "queued"
if held == 0 or redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
if status ~= "started" and status ~= "queued" and status ~= "created" then return 0 end
redis.call("HSET", KEYS[1], "status", "queued", "worker_name", "")
redis.call("LPUSH", KEYS[2], ARGV[1])
return 1
