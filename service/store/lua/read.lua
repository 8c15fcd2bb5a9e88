-- One job as it is now.
-- KEYS  1-6 keys.lifecycle
-- ARGV  1 job id
-- Returns {fields, latest result, position or false, known, last event of the log, 1 if it should have started by now}.
--         What is not of the type that it should be is as if it were not there.
if call("EXISTS", KEYS[3]) == 0 then return {{}, {}, false, 0, {}, 0} end
local fields = those("HGETALL", KEYS[1])
local position, late = false, 0
if #fields > 0 then
  local state = call("HMGET", KEYS[1], "status", "origin", "start_deadline")
  -- Nobody who waits further back than this is helped by the exact number, and LPOS is O(n).
  if state[1] == "queued" and state[2] then
    position = try("LPOS", queue_key(state[2]), ARGV[1], "MAXLEN", 10000)
    if type(position) ~= "number" then position = false end
  end
  late = is_late(state[1], state[3])
end
return {
  fields,
  those("XREVRANGE", KEYS[4], "+", "-", "COUNT", 1),
  position,
  1,
  those("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1),
  late,
}
