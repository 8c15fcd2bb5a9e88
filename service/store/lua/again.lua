-- End an execution whose job is tried again: queued now, or scheduled for later.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash   9 executions   10 worker_executions   11 queue list
--       12 scheduled registry
-- ARGV  1 member   2 execution id   3 "" or the time by which its lease must have ended   4 job id
--       5 number of the attempt   6 attempt, JSON without its braces and number, or "": it does not count
--       7 "" or unix time to be queued at   8 retries left   9 now, RQ's format   10 channel keys.WAKE   11 queue name
--       12 most events kept   13 "1" if its process died   14... type, data of each event
-- Returns 1, 0 if the execution is no longer the job's, or 2, with nothing written, if a caller has
--          asked for the job to be stopped: then it is not tried again.
if redis.call("HGET", KEYS[1], "ended_execution") == ARGV[2] then return 1 end
if not holds(KEYS[7], ARGV[1], ARGV[3]) then return 0 end
if redis.call("HEXISTS", KEYS[1], "cancel_requested_at") == 1 then return 2 end
close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
if redis.call("EXISTS", KEYS[1]) == 0 then return 0 end
redis.call("HSET", KEYS[1], "ended_execution", ARGV[2], "retries_left", ARGV[8], "worker_name", "")
if ARGV[6] == "" then
  redis.call("HDEL", KEYS[1], "attempt:" .. ARGV[5])
  redis.call("HINCRBY", KEYS[1], "attempts", -1)
else
  redis.call("HSET", KEYS[1], "attempt:" .. ARGV[5], '{"number":' .. ARGV[5] .. "," .. ARGV[6] .. "}")
end
if ARGV[13] ~= "" then redis.call("HINCRBY", KEYS[1], "crashes", 1) end
for i = 14, #ARGV, 2 do change(KEYS, ARGV[12], ARGV[i], ARGV[i + 1]) end
if ARGV[7] ~= "" then
  redis.call("HSET", KEYS[1], "status", "scheduled", "scheduled_at", ARGV[7])
  redis.call("ZADD", KEYS[12], ARGV[7], ARGV[4])
else
  redis.call("HSET", KEYS[1], "status", "queued", "enqueued_at", ARGV[9])
  redis.call("LPUSH", KEYS[11], ARGV[4])
  redis.call("PUBLISH", ARGV[10], ARGV[11])
end
return 1
