-- Say how the models of a worker do.
-- KEYS  1 keys.MODELS, then keys.serving of each model
-- ARGV  1 worker   2 seconds for which that holds   3... model, its description (JSON), report (JSON without its last
--       brace) of each
-- Returns now, unix. A description that is not there any more (Redis came back empty) is published again.
for i = 2, #KEYS do
  local at = i * 3 - 3
  local report = ARGV[at + 2] .. string.format(',"until":%.6f}', NOW + ARGV[2])
  write("HSETNX", KEYS[1], ARGV[at], ARGV[at + 1])
  undecided()
  write("HSET", KEYS[i], ARGV[1], report)
  decided()
  call("EXPIRE", KEYS[i], ARGV[2] + 1)
end
return string.format("%.6f", NOW)
