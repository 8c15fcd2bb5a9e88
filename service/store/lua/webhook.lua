-- Stands after prelude.lua before every script: a change of a job's status, told in its log and to its webhook.
-- Each call of a webhook is a job of its own, in the model and the queue `webhooks`, with the fields that
-- store/jobs.py writes too. It is made in the script that changes the status: nobody can die between the two.

-- The body, at most `most` bytes: an event that is too large for it is left out, and can be had at the URL.
local function webhook_body(id, event_id, moment, kind, data, model, metadata, most)
  local head = '{"type":"job.' .. kind .. '","timestamp":"' .. moment .. 'Z","data":{"job_id":"' .. id ..
    '","event_id":"' .. event_id .. '","model":"' .. model .. '","url":"/v1/jobs/' .. id .. '"'
  if #head + #data > most then
    data = kind == "finished" and '{"result_url":"/v1/jobs/' .. id .. '/result"}' or "{}"
  end
  local tail = data == "{}" and "}}" or "," .. string.sub(data, 2) .. "}"
  metadata = ',"metadata":' .. metadata
  if #head + #metadata + #tail > most then metadata = "" end
  return head .. metadata .. tail
end

-- The receiver has answered 410 to an earlier call for this job: it wants no more of them.
local function is_gone(deliveries)
  for delivery in string.gmatch(deliveries, "%S+") do
    local error = try("HGET", RQ .. ":job:" .. delivery, "error")
    if type(error) == "string" and string.find(error, '"type":"gone"', 1, true) then return true end
  end
  return false
end

local function wants(webhook, kind)
  for _, each in ipairs(webhook.events) do
    if each == kind then return true end
  end
  return false
end

-- The webhook of a job's hash; nil if it has none, or one that this service did not write.
local function webhook_of(text)
  local good, webhook = pcall(cjson.decode, text or "null")
  if not good or type(webhook) ~= "table" or type(webhook.events) ~= "table" then return nil end
  if type(webhook.fields) ~= "table" or #webhook.fields == 0 or #webhook.fields % 2 == 1 or #webhook.fields > 100 then
    return nil
  end
  return type(webhook.url) == "string" and type(webhook.largest) == "number" and webhook or nil
end

local function call_webhook(job, limit, event_id, kind, data)
  local state = call("HMGET", job, "webhook", "deliveries", "model", "metadata")
  local webhook = state[1] and webhook_of(state[1])
  if not webhook then return end
  local id, deliveries = id_of(job), state[2] or ""
  if not wants(webhook, kind) or is_gone(deliveries) then return end
  local delivery = "webhook_" .. event_id .. "_" .. id
  local own = lifecycle(delivery)
  local milliseconds = tonumber(string.match(event_id, "^%d+"))
  local moment = string.format("%s.%03d", iso(math.floor(milliseconds / 1000)), milliseconds % 1000)
  local body = webhook_body(id, event_id, moment, kind, data, state[3] or "", state[4] or "null", webhook.largest)
  local input = {id = delivery, url = webhook.url, body = body}
  write("RPUSH", queue_key("webhooks"), delivery)
  try("ZADD", SERVICE .. ":jobs:webhooks", NOW, delivery)
  -- The fields that are the service's come last: a webhook that somebody else wrote cannot have others run.
  local values = {}
  for i, each in ipairs(webhook.fields) do values[i] = tostring(each) end
  try("HSET", own[1], unpack(values))
  call("HSET", own[1], "created_at", moment .. "000Z", "enqueued_at", moment .. "000Z", "origin", "webhooks",
    "description", "webhooks", "status", "queued", "model", "webhooks", "priority", "default", "metadata", "null",
    "webhook_of", id, "webhook_event", kind,
    "data", cjson.encode({webhook.entry, cjson.null, {"webhooks", input}, {}}))
  call("SET", own[3], "")
  call("HSET", job, "deliveries", deliveries == "" and delivery or deliveries .. " " .. delivery)
  try("SADD", RQ .. ":queues", queue_key("webhooks"))
  emit(own[2], limit, "queued", '{"queue":"webhooks","priority":"default"}')
  try("PUBLISH", WAKE, "webhooks")
end

-- A job has another status: its event, and what follows from it.
local function change(lifecycle, limit, kind, data)
  local event_id = emit(lifecycle[2], limit, kind, data)
  if event_id then call_webhook(lifecycle[1], limit, event_id, kind, data) end
end
