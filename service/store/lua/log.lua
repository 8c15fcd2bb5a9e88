-- What a job's log has after a cursor, within a bound on its bytes, and the job without its payload and its result.
-- KEYS  1-6 keys.lifecycle
-- ARGV  1 cursor   2 most events   3 most bytes; one event is given whatever its size
-- Returns {fields, {}, false, known, last event of the log, first one, events, 1 if it should have started by now}; the
--         field "data" is empty. What is not of the type that it should be is as if it were not there.
if call("EXISTS", KEYS[3]) == 0 then return {{}, {}, false, 0, {}, {}, {}, 0} end
local fields, status, deadline = those("HGETALL", KEYS[1]), false, false
for i = 1, #fields, 2 do
  if fields[i] == "data" then fields[i + 1] = ""
  elseif fields[i] == "status" then status = fields[i + 1]
  elseif fields[i] == "start_deadline" then deadline = fields[i + 1] end
end
local events, after, count, room = {}, ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
while #events < count and room > 0 do
  local entries = those("XRANGE", KEYS[2], "(" .. after, "+", "COUNT", math.min(16, count - #events))
  for _, entry in ipairs(entries) do
    for _, text in ipairs(entry[2]) do room = room - #text end
    if room < 0 and #events > 0 then break end
    events[#events + 1] = entry
    after = entry[1]
  end
  if #entries < 16 then break end
end
return {
  fields,
  {},
  false,
  1,
  those("XREVRANGE", KEYS[2], "+", "-", "COUNT", 1),
  those("XRANGE", KEYS[2], "-", "+", "COUNT", 1),
  events,
  is_late(status, deadline),
}
