-- The bucket of one quota. A process asks for a share, and may use it from a given time on. The bucket pays the share at
-- once, so its level may be negative for a moment. A new bucket is empty, but a process that never had a share gets its
-- first one.
-- KEYS: the bucket, those who use it.
-- ARGV: who asks, a pause in ms, and for requests and for tokens each: rate per second or 0, whether a reply told it,
-- capacity, what is wanted, what comes back, what there is at first, and what the provider has left or -1.
local AHEAD = 1
local SEEN = 5000
local FORGOTTEN = 600000
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - SEEN)
redis.call('PEXPIRE', KEYS[2], FORGOTTEN)
local known = redis.call('HMGET', KEYS[1], 'paused', 'at', 'level1', 'rate1', 'told1', 'level2', 'rate2', 'told2')
local paused = math.max(tonumber(known[1]) or 0, now + tonumber(ARGV[2]))
local answer = { redis.call('ZCARD', KEYS[2]), string.format('%.3f', paused - now) }
local set = { 'paused', string.format('%.3f', paused), 'at', string.format('%.3f', now) }
local passed = math.max(0, now - (tonumber(known[2]) or now)) / 1000
for part = 1, 2 do
  local first = 3 + (part - 1) * 7
  local rate, told, capacity = tonumber(ARGV[first]), ARGV[first + 1], tonumber(ARGV[first + 2])
  local wanted, back = tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  local begin, left = tonumber(ARGV[first + 5]), tonumber(ARGV[first + 6])
  local place = 3 + (part - 1) * 3
  local level, before = tonumber(known[place]), tonumber(known[place + 1])
  local granted, wait = 0, 0
  if rate > 0 then
    if level then
      level = math.min(capacity, level + passed * (before or rate) + back)
    else
      level = begin
    end
    if left >= 0 then
      level = math.min(level, left)
    end
    if wanted > 0 and level > -AHEAD * rate then
      granted = wanted
      level = level - wanted
      wait = math.max(0, -level / rate)
    elseif wanted > 0 then
      wait = -level / rate - AHEAD
    end
    for _, value in ipairs({ 'level' .. part, level, 'rate' .. part, rate, 'told' .. part, told }) do
      table.insert(set, tostring(value))
    end
  end
  local rate_of_others, told_to_others = known[place + 1] or '0', known[place + 2] or '0'
  for _, value in ipairs({ granted, wait, rate_of_others, told_to_others }) do
    table.insert(answer, tostring(value))
  end
end
redis.call('HSET', KEYS[1], unpack(set))
redis.call('PEXPIRE', KEYS[1], FORGOTTEN)
return answer
