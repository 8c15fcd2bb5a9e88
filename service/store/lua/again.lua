-- End an execution whose job is tried again: queued now, or scheduled for later.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash   9 executions   10 worker_executions   11 queue list
--       12 scheduled registry   13 keys.START_DEADLINES
-- ARGV  1 member   2 execution id   3 "" or "1" if its lease must have ended   4 job id
--       5 number of the attempt   6 attempt, JSON without its braces, number and end, or "": it does not count
--       7 "" or seconds after which it is queued   8 retries left   9 queue name   10 most events kept
--       11 "1" if its process died   12 data of the retrying event or ""   13 data of the queued event
--       14 "1" if it had begun   15 traceback, packed, or ""
-- Returns 1, 0 if the execution is no longer the job's, or 2, with nothing written, if a caller has
--          asked for the job to be stopped: then it is not tried again.
local state = call("HMGET", KEYS[1], "ended_execution", "cancel_requested_at", "start_deadline")
if state[1] == ARGV[2] then return 1 end
if not holds(KEYS[7], ARGV[1], ARGV[3]) then return 0 end
if state[2] then return 2 end
if call("EXISTS", KEYS[1]) == 0 then
  close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
  return 0
end
local at = ARGV[7] ~= "" and NOW + ARGV[7]
local when = at and {"status", "scheduled", "scheduled_at", string.format("%.6f", at)}
  or {"status", "queued", "enqueued_at", rq_now()}
call("HSET", KEYS[1], "ended_execution", ARGV[2], "retries_left", ARGV[8], "worker_name", "", unpack(when))
decided()
if at then
  write("ZADD", KEYS[12], at, ARGV[4])
  call("HDEL", KEYS[1], "waits_for")  -- it is scheduled for its next try, whoever makes that
else
  write("LPUSH", KEYS[11], ARGV[4])
end
close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
if ARGV[6] == "" then
  call("HDEL", KEYS[1], "attempt:" .. ARGV[5])
  call("HINCRBY", KEYS[1], "attempts", -1)
else
  call("HSET", KEYS[1], "attempt:" .. ARGV[5],
    '{"number":' .. ARGV[5] .. "," .. ARGV[6] .. ',"ended_at":"' .. rfc3339() .. '"}')
end
if ARGV[15] ~= "" then
  call("HSET", KEYS[1], "traceback:" .. ARGV[5], ARGV[15])
  call("HDEL", KEYS[1], "traceback:" .. ARGV[5] - 5)  -- a job has up to 101 attempts, and is read as a whole
end
if ARGV[11] ~= "" then call("HINCRBY", KEYS[1], "crashes", 1) end
if ARGV[14] ~= "" then
  call("HDEL", KEYS[1], "start_deadline")
elseif state[3] then
  call("ZADD", KEYS[13], state[3], ARGV[4])  -- it still has to start in time, wherever it has waited
end
if ARGV[12] ~= "" then change(KEYS, ARGV[10], "retrying", ARGV[12]) end
if at then
  change(KEYS, ARGV[10], "scheduled", '{"at":"' .. rfc3339(at) .. '"}')
else
  change(KEYS, ARGV[10], "queued", ARGV[13])
  try("PUBLISH", WAKE, ARGV[9])
end
return 1
