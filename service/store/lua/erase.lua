-- Erase a job that is over; its id stays known for a while.
-- KEYS  1-6 keys.lifecycle   7 finished   8 failed   9 canceled registry   10 keys.JOBS   11 keys.jobs_of
--       12 executions
-- ARGV  1 job id   2 tombstone ttl
-- Returns "erased", "gone" if it is not there, or the job's status if it is not over.
local status = redis.call("HGET", KEYS[1], "status")
if not status then return "gone" end
if status ~= "finished" and status ~= "failed" and status ~= "stopped" and status ~= "canceled" then return status end
local prefix = string.match(KEYS[1], "^(.*):job:[^:]+$")
for delivery in string.gmatch(redis.call("HGET", KEYS[1], "deliveries") or "", "%S+") do
  redis.call("DEL", unpack(lifecycle(prefix, delivery)))  -- what it would send is the job's: it goes too, sent or not
end
redis.call("DEL", KEYS[1], KEYS[2], KEYS[4], KEYS[5], KEYS[6], KEYS[12])
for i = 7, 11 do redis.call("ZREM", KEYS[i], ARGV[1]) end
redis.call("SET", KEYS[3], "1", "EX", ARGV[2])
return "erased"
