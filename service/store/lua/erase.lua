-- Erase a job that is over; its id stays known for a while.
-- KEYS  1-6 keys.lifecycle   7 finished   8 failed   9 canceled registry   10 keys.JOBS   11 keys.jobs_of
--       12 executions
-- ARGV  1 job id   2 tombstone ttl
-- Returns "erased", "gone" if it is not there, or the job's status if it is not over.
local job = call("HMGET", KEYS[1], "status", "deliveries")
local status = job[1]
if not status then return "gone" end
if status ~= "finished" and status ~= "failed" and status ~= "stopped" and status ~= "canceled" then return status end
call("DEL", KEYS[1])
decided()
for delivery in string.gmatch(job[2] or "", "webhook_%S+") do
  call("DEL", unpack(lifecycle(delivery)))  -- what it would send is the job's: it goes too, sent or not
end
call("DEL", KEYS[2], KEYS[4], KEYS[5], KEYS[6], KEYS[12])
for i = 7, 11 do call("ZREM", KEYS[i], ARGV[1]) end
call("SET", KEYS[3], "1", "EX", ARGV[2])
return "erased"
