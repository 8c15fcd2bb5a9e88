-- Of many jobs the status, and what their logs said last.
-- KEYS  job hash, events stream of each
-- Returns {status or false, type of the last event or false, 1 if it should have started by now} of each, one after
-- the other
local states = {}
for i = 1, #KEYS, 2 do
  local job = try("HMGET", KEYS[i], "status", "start_deadline")
  local entries = try("XREVRANGE", KEYS[i + 1], "+", "-", "COUNT", 1)
  local last = not entries.err and entries[1]
  states[#states + 1] = job[1] or false
  states[#states + 1] = last and last[2][2] or false
  states[#states + 1] = is_late(job[1], job[2])
end
return states
