-- The bucket of one quota. A process asks for a share, and may use it from a given time on. The bucket pays the share at
-- once, so its level may be negative for a moment. A new bucket is empty, but a process that never had a share gets its
-- first one.
-- KEYS: the bucket, those who use it.
-- ARGV: who asks, a pause in ms, whether a call was answered, how many first calls there are at once if one is wanted, an
-- outage in ms (0: it is over, -1: nothing new), whether the call that probes is wanted or made, and for requests and for
-- tokens each: rate per second or 0, how many ms ago a reply reported it or -1, capacity, what is wanted, what comes back, what there is at
-- first, and what the provider has left or -1.
local AHEAD = 1
local SEEN = 5000
local FORGOTTEN = 600000
-- The probing process repeats its claim. After this time without one, another process may probe.
local PROBES = 2000
-- Between two probes, unless the process that makes them waits for longer.
local LONGEST_WAIT = 8000
-- Times further ahead were not written by a process, or by another clock.
local LONGEST_PAUSE = 3600000
-- The clock of Redis may be corrected by so much without any consequence.
local TOLERANCE = 1000
-- What a bucket owes at most, in seconds.
local LONGEST_DEBT = 60
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local me = ARGV[1]
local known = redis.call('HMGET', KEYS[1], 'paused', 'at', 'level1', 'rate1', 'reported1', 'level2', 'rate2', 'reported2',
  'replied', 'first', 'first_at', 'down', 'prober', 'probed', 'waited')
local function number(text)
  local value = tonumber(text)
  if value and value - value == 0 then
    return value
  end
end
local is_set_back = (number(known[2]) or 0) > now + TOLERANCE
local function moment(text, longest)
  local value = number(text) or 0
  return not is_set_back and value <= now + longest and value or 0
end
if is_set_back then
  redis.call('DEL', KEYS[2])
end
redis.call('ZADD', KEYS[2], now, me)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - SEEN)
redis.call('PEXPIRE', KEYS[2], FORGOTTEN)
local paused = math.max(moment(known[1], LONGEST_PAUSE), now + tonumber(ARGV[2]))
local set = { 'paused', string.format('%.3f', paused), 'at', string.format('%.3f', now) }
local function keep(name, value)
  table.insert(set, name)
  table.insert(set, type(value) == 'number' and string.format('%.3f', value) or value)
end

local replied, begins = known[9] == '1' or ARGV[3] == '1', 0
keep('replied', replied and '1' or '0')
local first_calls = tonumber(ARGV[4])
if first_calls > 0 and not replied then
  -- One more call each second: earlier ones may have been lost.
  local passed = math.max(0, now - (number(known[11]) or now)) / 1000
  local first = math.min(first_calls, (number(known[10]) or first_calls) + passed)
  if first >= 1 then
    begins, first = 1, first - 1
  end
  keep('first', first)
  keep('first_at', now)
end

local down, prober, probed = moment(known[12], LONGEST_PAUSE), known[13] or '', moment(known[14], PROBES)
local news, probes = tonumber(ARGV[5]), ARGV[6] == '1'
-- A probe that failed has all wait for twice as long as before, whichever process made it.
local waited = number(known[15]) or 0
if news == 0 then
  down, prober, waited = 0, '', 0
elseif news > 0 then
  if down > 0 and down <= now and prober == me then
    news = math.max(news, math.min(2 * waited, LONGEST_WAIT))
  end
  waited = math.max(waited, news)
  down, prober = math.max(down, now + news), ''
end
local outage = -1
if down > now then
  outage = down - now
elseif down > 0 then
  if prober == '' or prober == me or probed <= now then
    outage = 0
    if probes then
      prober, probed = me, now + PROBES
    end
  else
    outage = probed - now
  end
end
keep('down', down)
keep('prober', prober)
keep('probed', probed)
keep('waited', waited)

local passed = math.max(0, now - (number(known[2]) or now)) / 1000
local parts = {}
for part = 1, 2 do
  local at = 7 + (part - 1) * 7
  local rate, age, capacity = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local wanted, back = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  local begin, left = tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local place = 3 + (part - 1) * 3
  local level, before = number(known[place]), number(known[place + 1])
  local granted, wait = 0, 0
  if rate > 0 then
    if level then
      level = math.min(capacity, level + passed * (before or rate) + back)
      level = math.max(level, -LONGEST_DEBT * rate)
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
    keep('level' .. part, tostring(level))
    keep('rate' .. part, tostring(rate))
    keep('reported' .. part, age >= 0 and now - age or 0)
  end
  local reported = moment(known[place + 2], 0)
  local age_of_others = reported > 0 and now - reported or -1
  table.insert(parts, { tostring(granted), tostring(wait), tostring(before or 0), tostring(age_of_others) })
end
redis.call('HSET', KEYS[1], unpack(set))
redis.call('PEXPIRE', KEYS[1], FORGOTTEN)
return {
  redis.call('ZCARD', KEYS[2]), string.format('%.3f', paused - now), replied and 1 or 0, begins,
  string.format('%.3f', outage), parts,
}
