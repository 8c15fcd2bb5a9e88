-- Append events of a running execution to its job's log, and keep the latest progress.
-- KEYS  1-6 keys.lifecycle   7 wip   8 execution hash
-- ARGV  1 `<job id>:<execution id>`   2 number of this call within the execution   3 most events kept
--       4 meta of the job, JSON, or ""   5... type, data of each event
-- Returns 1, or 0 if the execution is no longer the job's. A call that is repeated writes nothing twice.
if not holds(KEYS[7], ARGV[1], "") then return 0 end
if tonumber(redis.call("HGET", KEYS[8], "appended") or 0) >= tonumber(ARGV[2]) then return 1 end
redis.call("HSET", KEYS[8], "appended", ARGV[2])
if ARGV[4] ~= "" then redis.call("HSET", KEYS[1], "meta", ARGV[4]) end
for i = 5, #ARGV, 2 do emit(KEYS[2], ARGV[3], ARGV[i], ARGV[i + 1]) end
return 1
