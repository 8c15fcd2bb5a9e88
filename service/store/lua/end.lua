-- End an execution and its job with it: finished, failed or stopped.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash   9 executions   10 worker_executions   11 worker hash
--       12 finished or failed registry
-- ARGV  1 member   2 execution id   3 "" or the time by which its lease must have ended   4 job id   5 status
--       6 number of the attempt   7 attempt, JSON without its braces and number   8 ttl   9 tombstone ttl
--       10 now, unix   11 counter field of the worker   12 working time   13 most events kept
--       14 data of the event   15 how many fields of the job follow   then these, then those of the result
-- Returns 1, 2 if other jobs wait for this one, or 0 if the execution is no longer the job's.
if redis.call("HGET", KEYS[1], "ended_execution") == ARGV[2] then  -- this very call was made before
  return redis.call("EXISTS", KEYS[5]) == 1 and 2 or 1
end
if not holds(KEYS[7], ARGV[1], ARGV[3]) then return 0 end
close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end  -- erased while it ran: do not bring half of it back
local result = 16 + ARGV[15]
redis.call("HSET", KEYS[1], "status", ARGV[5], "ended_execution", ARGV[2],
  "attempt:" .. ARGV[6], '{"number":' .. ARGV[6] .. "," .. ARGV[7] .. "}", unpack(ARGV, 16, result - 1))
redis.call("XADD", KEYS[4], "MAXLEN", "~", 10, "*", unpack(ARGV, result))
redis.call("ZADD", KEYS[12], ARGV[10] + ARGV[8], ARGV[4])
-- Only if the worker lives: HINCRBY would bring an expired hash back without an end.
if redis.call("EXISTS", KEYS[11]) == 1 then
  redis.call("HINCRBY", KEYS[11], ARGV[11], 1)
  redis.call("HINCRBYFLOAT", KEYS[11], "total_working_time", ARGV[12])
end
emit(KEYS[2], ARGV[13], ARGV[5], ARGV[14])
keep_for(ARGV[8], ARGV[9])
return redis.call("EXISTS", KEYS[5]) == 1 and 2 or 1
