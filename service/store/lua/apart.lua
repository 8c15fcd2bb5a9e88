-- Set a job apart whose input this version of its model refuses: it waits for a worker with the version by which it was
-- accepted, which takes it from here (turn.lua). It is scheduled for the time when whoever is there may take it again.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash   9 executions   10 worker_executions   11 scheduled registry
--       12 keys.apart   13 keys.APART   14 keys.serving   15 keys.START_DEADLINES
-- ARGV  1 member   2 execution id   3 job id   4 number of the attempt, which does not count   5 the job's version
--       6 the same, JSON   7 seconds that it may wait   8 queue name   9 most events kept
-- Returns 1, 0 if the execution is no longer the job's, 2 if a caller has asked for the job to be stopped, or 3 if it has
--         waited in vain, and no worker with its version lives: then, and with 2, nothing is written.
local state = call("HMGET", KEYS[1], "ended_execution", "cancel_requested_at", "start_deadline", "waits_until")
if state[1] == ARGV[2] then return 1 end
if not holds(KEYS[7], ARGV[1], "") then return 0 end
if state[2] then return 2 end
if call("EXISTS", KEYS[1]) == 0 then
  close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
  return 0
end
local at = tonumber(state[4] or "")
if at and at <= NOW and not is_served(KEYS[14], ARGV[5]) then return 3 end
if not at or at <= NOW then at = NOW + ARGV[7] end
local at_text = string.format("%.6f", at)
call("HSET", KEYS[1], "ended_execution", ARGV[2], "worker_name", "", "status", "scheduled", "scheduled_at", at_text,
  "waits_for", ARGV[5], "waits_until", at_text)
decided()
write("ZADD", KEYS[11], at, ARGV[3])
write("ZADD", KEYS[12], at, ARGV[3])
call("EXPIRE", KEYS[12], math.ceil(at - NOW) + 60)
call("SET", KEYS[13], "1", "EX", math.ceil(at - NOW) + 60)
close_execution(KEYS[7], ARGV[1], KEYS[8], KEYS[9], ARGV[2], KEYS[10])
call("HDEL", KEYS[1], "attempt:" .. ARGV[4])
call("HINCRBY", KEYS[1], "attempts", -1)
if state[3] then call("ZADD", KEYS[15], state[3], ARGV[3]) end  -- it still has to start in time
change(KEYS, ARGV[9], "scheduled", '{"at":"' .. rfc3339(at) .. '","waits_for":{"version":' .. ARGV[6] .. "}}")
try("PUBLISH", WAKE, ARGV[8])
return 1
